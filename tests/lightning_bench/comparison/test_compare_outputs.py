"""What `lbench compare` shows: terminal, Markdown, JUnit, GitHub."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lightning_bench.comparison.formats.ci import junit, workflow_commands
from lightning_bench.comparison.formats.verdict_markdown import comparison_markdown
from lightning_bench.comparison.formats.verdict_text import interval_text, others_text
from lightning_bench.comparison.result import (
    ComparedCell,
    Comparison,
    Overall,
    accept,
    parse_allow,
    sort_cells,
)
from tests.support.patience import PATIENCE_S
from tests.support.terminals import on_a_terminal

ODD = "pipe|<b>*x*/fwd/b1"


def cell(verdict: Any, case: str = "lightning2/fwd/b1", **changes: Any) -> ComparedCell:
    provider, direction, _ = case.rsplit("/", 2)
    given = {"ratio": 1.05, "low": 1.03, "high": 1.07, "base": 1.0, "head": 1.05, "unit": "ms"}
    return ComparedCell(
        verdict, "speed", "lbench", case, provider, "linear_decay", direction, **given | changes
    )


def comparison(*cells: ComparedCell, **changes: Any) -> Comparison:
    given: dict[str, Any] = {"overall": [over("SAME")]} | changes
    return Comparison("main", "HEAD", 0.03, sort_cells(cells), **given)


def over(verdict: Any, **changes: Any) -> Overall:
    given: dict[str, Any] = {
        "provider": "lightning2",
        "family": "linear_decay",
        "direction": "fwd",
        "protocol": "lbench",
        "verdict": verdict,
        "cells": 5,
        "case_ids": ("b/fwd/1", "c/fwd/1"),
        "ratio": 1.01,
        "low": 0.99,
        "high": 1.03,
        "p": 1.0,
    }
    return Overall(**given | changes)


MIXED = comparison(
    cell("SAME", "a/fwd/1", ratio=1.0),
    cell("SLOWER", "b/fwd/1"),
    cell("SLOWER", "c/fwd/1", ratio=1.5),
    cell("BROKEN", ODD, ratio=None, low=None, high=None, detail="now crashed: boom, 100%\nover"),
    cell("AMBIGUOUS", "d/fwd/1", low=None, high=None),
    remarks=["noisy"],
)


def test_worst_first_and_the_largest_change_first_within_a_verdict() -> None:
    assert [one.case_id for one in MIXED.cells] == ["c/fwd/1", "b/fwd/1", ODD, "d/fwd/1", "a/fwd/1"]
    assert MIXED.headline == "Worse: 2 SLOWER, 1 BROKEN of 5 cells; not decided: 1 AMBIGUOUS"
    assert MIXED.exit_code == 1
    assert comparison(cell("SAME")).headline == "Nothing is worse in 1 cell"


def test_both_ends_of_an_interval_have_a_unit() -> None:
    assert interval_text(cell("SLOWER")) == "+3.0 … +7.0 %"
    assert interval_text(cell("AMBIGUOUS", low=0.5, high=12.0)) == "-50.0 % … ×12"
    assert interval_text(cell("SLOWER", low=11.0, high=12.0)) == "×11 … ×12"
    assert interval_text(cell("AMBIGUOUS", low=1e-4, high=1e101)) == "-100.0 % … >×1000"
    assert interval_text(cell("SLOWER", low=2e3, high=3e3)) == "×2e+03 … ×3e+03"


def test_markdown_is_short_first_and_folds_the_rest() -> None:
    text = comparison_markdown(MIXED)
    short, _, folded = text.partition("<details>")
    assert short.startswith(f"### ❌ lbench: {MIXED.headline}\n")
    assert short.count("| SLOWER |") == 2
    assert "| SAME |" not in short
    assert "- SAME over all lightning2 fwd: +1.0 % in 5 cells, 99 % interval -1.0 … +3.0 %" in short
    assert "All cells (5)" in folded
    assert "Remarks (1)" in folded
    assert folded.count("<details>") + 1 == text.count("</details>")
    assert "pipe&#124;&#60;b&#62;&#42;x&#42;" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {7}


def test_the_counts_below_do_not_repeat_the_headline() -> None:
    assert MIXED.headline == "Worse: 2 SLOWER, 1 BROKEN of 5 cells; not decided: 1 AMBIGUOUS"
    assert others_text(MIXED) == "1 SAME"
    assert others_text(replace(MIXED, cells=MIXED.failing)) == ""


def test_what_a_terminal_gets_is_whole_words(sides: Any, tmp_path: Path) -> None:
    cases = {f"{name}/fwd/b1-h8-n512-d64-e64-bf16-cuda": 1.0 for name in ("lightning2", "sdpa-flash")}
    base = sides.write(tmp_path / "base.csv", cases)
    head = sides.write(tmp_path / "head.csv", dict.fromkeys(cases, 1.001), seed=4)
    shown = on_a_terminal(["compare", str(base), str(head)], code=3)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("AMBIGUOUS") and " … " in line for line in lines), "the interval is there"


def test_markdown_of_many_cells_fits_what_github_takes() -> None:
    text = comparison_markdown(comparison(*(cell("SLOWER", f"p{n}/fwd/1") for n in range(2000))))
    assert len(text.encode()) < 2**20
    assert "… and 1980 more below." in text
    assert "… and 1500 more: `--json` has them all." in text


def test_junit_counts_what_fails_and_is_xml() -> None:
    accepted = accept(MIXED, parse_allow(["b/*=known"]))
    root = ET.fromstring(junit(accepted))
    suite = root[0]
    assert {name: suite.get(name) for name in ("tests", "failures", "skipped")} == {
        "tests": "6",
        "failures": "2",
        "skipped": "2",
    }
    assert len(suite.findall("testcase/failure")) == 2
    by_name = {case.get("name"): case for case in suite}
    failure = by_name[ODD].find("failure")
    assert failure is not None
    assert failure.get("type") == "BROKEN"
    assert "now crashed" in str(failure.get("message"))
    skipped = by_name["b/fwd/1"].find("skipped")
    assert skipped is not None
    assert "accepted: known" in str(skipped.get("message"))


def test_junit_of_nothing_fails() -> None:
    root = ET.fromstring(junit(comparison()))
    assert root.get("failures") == "1"


def test_github_commands_are_escaped_and_few() -> None:
    lines = list(workflow_commands(MIXED))
    assert lines[0] == f"::error title=lbench compare::{MIXED.headline}"
    broken = next(line for line in lines if "BROKEN pipe" in line)
    assert "100%25%0Aover" in broken
    assert len(broken.splitlines()) == 1
    assert lines[-1] == "::warning title=lbench compare::noisy"
    many = comparison(*(cell("SLOWER", f"p{n}/fwd/1") for n in range(99)))
    assert len(list(workflow_commands(many))) == 10
    assert list(workflow_commands(comparison(cell("SAME")))) == []


def test_on_github_the_summary_is_appended_and_annotations_go_to_stderr(
    sides: Any, lbench: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    base = sides.write(tmp_path / "base.csv", {"lightning2/fwd/b1": 1.0}, passes=12)
    head = sides.write(tmp_path / "head.csv", {"lightning2/fwd/b1": 1.2}, passes=12, seed=4)
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    ran = lbench("compare", base, head, "--json", "--junit", tmp_path / "out" / "junit.xml")
    assert ran.code == 1
    assert summary.read_text().startswith("before\n### ❌ lbench: Worse: 1 SLOWER of 1 cell")
    assert "::error title=SLOWER lightning2/fwd/b1::SLOWER +" in ran.err
    assert "::error" not in ran.out
    assert ET.parse(tmp_path / "out" / "junit.xml").getroot().get("failures") == "1"
    first = summary.read_text().removeprefix("before\n")
    assert lbench("compare", base, head, "--markdown").out + "\n" == first


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_shows_what_changed_and_with_all_everything(
    sides: Any, lbench: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    cases = {
        "lightning2/fwd/b1-h8-n512-d64-e64-bf16-cuda": 1.0,
        "lightning2/bwd/b1-h8-n512-d64-e64-bf16-cuda": 2.0,
    }
    base = sides.write(tmp_path / "base.csv", cases, passes=12)
    slow = {case: ms * (1.2 if "fwd" in case else 1) for case, ms in cases.items()}
    head = sides.write(tmp_path / "head.csv", slow, passes=12, seed=4)

    def call(*more: str) -> Any:
        # After the fixture has taken COLUMNS away.
        from rich.console import Console

        monkeypatch.setattr(Console, "width", property(lambda _: width))
        return lbench("compare", base, head, *more)

    short, whole = call(), call("--all")
    assert "SLOWER" in short.out
    assert "fwd/b1-h8-n512-d64-e64-bf16-cuda" in short.out.replace("\n", "").replace(" ", "")
    (line,) = [line for line in short.out.splitlines() if line.startswith("SLOWER  ")]
    assert re.search(r"SLOWER  +\+[12]\d\.\d %  \+1\d\.\d … \+2\d\.\d %  1(\.0\d*)?( ms  | → )1\.", line)
    assert re.search(
        r"^Worse: 1 SLOWER of 2 cells\. Also 1 SAME\. \(1 not shown: --all\)$", short.out, re.MULTILINE
    )
    assert "bwd/b1" not in short.out
    assert "SAME " in whole.out.split("Worse")[0]


def test_if_nothing_is_decided_the_cells_that_may_have_changed_most_are_shown(
    sides: Any, lbench: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    cases = {f"lightning2/fwd/b{n}": 1.0 for n in range(8)}
    # One process on each side, whose noise is assumed: none of these changes can be decided.
    changed = {case: 1.0 + 0.004 * n for n, case in enumerate(cases)}
    paper = {"lightning2/bwd/b0": sides.row("lightning2/bwd/b0", protocol="paper", mean_ms=1.0)}
    base = sides.write(tmp_path / "base.csv", cases | {"lightning2/bwd/b0": 1.0}, noise=0.0)
    head = sides.write(tmp_path / "head.csv", changed | paper, noise=0.0, seed=1)
    short, whole = lbench("compare", base, head), lbench("compare", base, head, "--all")
    assert (short.code, whole.code) == (3, 3)
    assert "INCOMPARABLE" in short.out
    assert [n for n in range(8) if f"fwd/b{n}" in short.out] == [3, 4, 5, 6, 7]
    assert short.out.index("fwd/b7") < short.out.index("fwd/b3")
    assert "(3 not shown: --all; shown are those that may have changed most)" in short.out.replace("\n", " ")
    assert all(case in whole.out for case in cases)
    assert "not shown" not in whole.out
    every = lbench("compare", base, head, "--fail-on", "AMBIGUOUS")
    assert all(case in every.out for case in cases)
    same = lbench("compare", base, base)
    assert "may have changed most" not in same.out


def test_many_cells_are_compared_without_torch_and_pandas(sides: Any, tmp_path: Path) -> None:
    """benchmarks/reading_speed.py times 20,000 of them."""
    rows = 2_000
    path = sides.write(tmp_path / "one.csv", {"lightning2/fwd/b0": 1.0}, seed=1)
    lines = path.with_suffix(".samples.jsonl").read_text()
    head, line = path.read_text().splitlines()
    for name in ("base", "head"):
        cases = [f"lightning2/fwd/b{n}" for n in range(rows)]
        body = "\n".join(line.replace("lightning2/fwd/b0", case) for case in cases)
        body = body.replace("2026-01-01", "2026-01-02") if name == "head" else body
        (tmp_path / f"{name}.csv").write_text(f"{head}\n{body}\n")
        (tmp_path / f"{name}.samples.jsonl").write_text(
            "".join(lines.replace("lightning2/fwd/b0", case) for case in cases)
        )
    code = (
        "import re, sys\n"
        "from pathlib import Path\n"
        "sys.argv = ['lbench', 'compare', 'base.csv', 'head.csv', '--json']\n"
        "from lightning_bench.cli import main\n"
        "try: main()\n"
        "except SystemExit as ended: code = ended.code\n"
        # The peak of this process; ru_maxrss would begin at that of the process that started it.
        "peak = re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())\n"
        "gib = int(peak[1]) / 2**20 if peak else 0.0\n"
        "print(code, 'torch' in sys.modules, 'pandas' in sys.modules, gib < 0.5, file=sys.stderr)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_S,
    )
    assert ran.stderr.splitlines()[-1] == "0 False False True", ran.stderr
    assert ran.stdout.count('"verdict"') == rows + 1  # and one over all
