"""A comparison for continuous integration: JUnit XML, and GitHub's annotations."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator

from lightning_bench.comparison.formats.verdict_text import (
    case_text,
    change_text,
    figure_text,
    interval_text,
    overall_lines,
)
from lightning_bench.comparison.result import MEANINGS, ComparedCell, Comparison, Verdict
from lightning_bench.errors import ExitCode

# What XML 1.0 cannot hold, not even as a reference.
_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_KINDS: dict[Verdict, str] = {"INCOMPARABLE": "error", "AMBIGUOUS": "skipped"}
_COUNTED = {"failure": "failures", "error": "errors", "skipped": "skipped"}
_MOST_ANNOTATIONS = 10  # GitHub shows ten of each level per step


def junit(comparison: Comparison) -> str:
    """Return JUnit XML with one test case per cell and per overall verdict.

    Worse fails; what both sides have and cannot be compared is an error; ambiguous or accepted is skipped. A
    comparison that decides nothing has one failing test case, since a suite of skipped ones would pass.
    """
    failing = {id(one) for one in (*comparison.failing, *comparison.failing_overall)}
    suite = ET.Element("testsuite", name="lbench compare")
    count: Counter[str] = Counter(tests=0, failures=0, errors=0, skipped=0)

    def add(place: str, name: str, verdict: Verdict, accepted: str, message: str, found: bool) -> None:
        case = ET.SubElement(suite, "testcase", classname=place, name=name)
        count["tests"] += 1
        kind = "failure" if found else _KINDS.get(verdict, "") if not accepted else "skipped"
        if not kind:
            return
        count[_COUNTED[kind]] += 1
        element = ET.SubElement(case, kind, message=message)
        if kind != "skipped":
            element.set("type", verdict)
            element.text = f"{verdict}: {MEANINGS[verdict]}"

    for cell in comparison.cells:
        place = f"lbench.{cell.metric}.{cell.provider}"
        add(place, cell.case_id, cell.verdict, cell.accepted, summary(cell), id(cell) in failing)
    for one, line in zip(comparison.overall, overall_lines(comparison.overall), strict=True):
        add(f"lbench.overall.{one.provider}", one.id, one.verdict, one.accepted, line, id(one) in failing)
    if comparison.exit_code == ExitCode.UNDECIDED:
        case = ET.SubElement(suite, "testcase", classname="lbench", name="something was decided")
        ET.SubElement(case, "failure", type="UNDECIDED", message=comparison.headline)
        count.update(tests=1, failures=1)
    root = ET.Element("testsuites")
    for name, number in count.items():
        suite.set(name, str(number))
        root.set(name, str(number))
    root.append(suite)
    ET.indent(root)
    text = _NOT_XML.sub("\ufffd", ET.tostring(root, encoding="unicode"))
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def workflow_commands(comparison: Comparison) -> Iterator[str]:
    """Yield GitHub workflow commands: the headline and what is worse as errors, remarks as warnings.

    A headline that leaves something undecided is a warning.
    """
    if not comparison.clean:
        level = "error" if comparison.exit_code else "warning"
        yield f"::{level} title=lbench compare::{_data(comparison.headline)}"
    worse = [(f"{cell.verdict} {cell.case_id}", summary(cell)) for cell in comparison.failing]
    of_all = comparison.failing_overall
    worse += [
        (f"{one.verdict} {one.id}", line) for one, line in zip(of_all, overall_lines(of_all), strict=True)
    ]
    for title, text in worse[: _MOST_ANNOTATIONS - 1]:
        yield f"::error title={_property(title)}::{_data(text)}"
    for remark in comparison.remarks[:_MOST_ANNOTATIONS]:
        yield f"::warning title=lbench compare::{_data(remark)}"


def summary(cell: ComparedCell) -> str:
    """Return a cell in one line: verdict, change, interval, figures and case."""
    figures = " → ".join(filter(None, (figure_text(cell.base, cell.unit), figure_text(cell.head, cell.unit))))
    bounds = interval_text(cell)
    parts = [cell.verdict, change_text(cell), f"({bounds})" if bounds else "", figures, case_text(cell)]
    return " ".join(part for part in parts if part)


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
