"""A comparison for continuous integration: JUnit XML, and GitHub's annotations."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator

from lightning_bench.compare.formats.verdict_text import case_text, change_text, figure_text, interval_text
from lightning_bench.compare.result import MEANINGS, UNSURE, ComparedCell, Comparison

# What XML 1.0 cannot hold, not even as a reference.
_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_MOST_ANNOTATIONS = 10  # GitHub shows ten of each level per step


def junit(comparison: Comparison) -> str:
    """Return JUnit XML with one test case per cell: worse fails, undecided or accepted is skipped.

    A comparison of nothing has one failing test case, since an empty suite would pass.
    """
    failing = {id(cell) for cell in comparison.failing}
    suite = ET.Element("testsuite", name="lbench compare")
    failures = skipped = 0
    for cell in comparison.cells:
        case = ET.SubElement(
            suite, "testcase", classname=f"lbench.{cell.metric}.{cell.provider}", name=cell.case_id
        )
        if id(cell) in failing:
            failures += 1
            failure = ET.SubElement(case, "failure", type=cell.verdict, message=summary(cell))
            failure.text = f"{cell.verdict}: {MEANINGS[cell.verdict]}"
        elif cell.accepted or cell.verdict in UNSURE:
            skipped += 1
            ET.SubElement(case, "skipped", message=summary(cell))
    tests = len(comparison.cells)
    if not comparison.compared:
        case = ET.SubElement(suite, "testcase", classname="lbench", name="something was compared")
        ET.SubElement(case, "failure", type="NOTHING", message=comparison.headline)
        tests, failures = tests + 1, failures + 1
    for name, count in (("tests", tests), ("failures", failures), ("errors", 0), ("skipped", skipped)):
        suite.set(name, str(count))
    root = ET.Element("testsuites", tests=str(tests), failures=str(failures), skipped=str(skipped))
    root.append(suite)
    ET.indent(root)
    text = _NOT_XML.sub("\ufffd", ET.tostring(root, encoding="unicode"))
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def workflow_commands(comparison: Comparison) -> Iterator[str]:
    """Yield GitHub workflow commands: the headline and the failing cells as errors, remarks as warnings."""
    if comparison.exit_code:
        yield f"::error title=lbench compare::{_data(comparison.headline)}"
    for cell in comparison.failing[: _MOST_ANNOTATIONS - 1]:
        yield f"::error title={_property(f'{cell.verdict} {cell.case_id}')}::{_data(summary(cell))}"
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
