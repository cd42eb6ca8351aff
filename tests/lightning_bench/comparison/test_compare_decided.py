"""`lbench compare` never claims more than was decided: headlines, exit codes, marks, remarks."""

from __future__ import annotations

import csv
import json
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lightning_bench.record import ResultFile, read_records
from tests.support.paths import ROOT

FWD, BWD = "lightning2/fwd/b1", "lightning2/bwd/b1"
PASSES = 12
PAPER = ROOT / "results" / "h200" / "paper-speed.csv"
FIGURES = ("median_ms", "p20_ms", "p80_ms", "min_ms", "mean_ms", "ci_low_ms", "ci_high_ms", "call_ms")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    monkeypatch.chdir(tmp_path)
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "base.csv", tmp_path / "head.csv"


class Told:
    """What all outputs say of one comparison."""

    def __init__(self, lbench: Callable[..., Any], arguments: Sequence[Any]) -> None:
        junit = Path("junit.xml")
        self.ran = lbench("compare", *arguments, "--json", "--junit", junit)
        assert self.ran.out, self.ran.err
        self.data = json.loads(self.ran.out)
        self.code = self.ran.code
        self.headline = self.data["headline"]
        self.cells = {cell["case_id"]: cell for cell in self.data["cells"]}
        self.overall = {f"{one['provider']} {one['direction']}": one for one in self.data["overall"]}
        self.markdown = lbench("compare", *arguments, "--markdown").out
        self.text = lbench("compare", *arguments).out
        self.junit = ET.parse(junit).getroot()
        assert self.code == self.data["exit_code"]
        assert self.headline in self.text.replace("\n", " ")
        assert (int(self.junit.get("failures", "0")) > 0) == (self.code != 0)

    @property
    def mark(self) -> str:
        return self.markdown.split()[1]

    def verdict(self, case: str = FWD) -> str:
        return str(self.cells[case]["verdict"])


@pytest.fixture
def told(lbench: Callable[..., Any], files: tuple[Path, Path]) -> Callable[..., Told]:
    return lambda *more, of=files: Told(lbench, (*of, *more))


def slower_copy(source: Path, target: Path, factor: float) -> None:
    """Copy a result file with every time multiplied."""
    with source.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row.update({name: str(factor * float(row[name])) for name in FIGURES if row[name]})
    with target.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def test_five_per_cent_everywhere_is_said_and_fails(
    files: tuple[Path, Path], told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path, factor in zip(files, (1.0, 1.05), strict=True):
        slower_copy(PAPER, path, factor)
    found = told()
    assert (found.code, found.mark) == (1, "❌")
    assert found.headline.startswith("Worse over all: ")
    assert "+5.0 % in 7 cells" in found.headline
    assert found.headline.endswith("not decided: 191 AMBIGUOUS")
    slower = [name for name, one in found.overall.items() if one["verdict"] == "SLOWER"]
    assert {"lightning2 fwd", "lightning2 bwd", "sdpa-cudnn fwd"} <= set(slower)
    assert int(found.junit.get("failures", "0")) == len(slower) > 20
    assert "overall.lightning2" in ET.tostring(found.junit, encoding="unicode")
    let_through = told("--fail-on", "BROKEN")
    assert (let_through.code, "not worse" in let_through.headline) == (0, False)
    assert "; decided over all: " in let_through.headline
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert "::error title=SLOWER lightning2/fwd/overall::" in told().ran.err


def test_a_file_and_its_copy_are_the_same_rows_which_decides_nothing(
    files: tuple[Path, Path], told: Any, lbench: Callable[..., Any]
) -> None:
    for path in files:
        slower_copy(PAPER, path, 1.0)
    found = told()
    assert (found.code, found.mark) == (3, "⚠️")
    assert found.headline == "Nothing was compared: both sides are the same rows"
    itself = lbench("compare", files[0], files[0])
    assert itself.code == 3
    assert "against itself: the same file" in itself.out
    assert "191 cells with the same rows on both sides, which says nothing" in itself.err


def test_if_nothing_is_decided_the_exit_code_is_3(sides: Any, files: tuple[Path, Path], told: Any) -> None:
    sides.write(files[0], {FWD: 1.0}, seed=1)
    sides.write(files[1], {FWD: 1.02}, seed=2)
    found = told()
    assert (found.code, found.mark) == (3, "⚠️")
    assert found.headline == "Nothing is decided in 1 cell: 1 AMBIGUOUS"
    assert "nothing is decided: every change is within the noise" in found.ran.err


def test_what_is_not_decided_beside_what_is_gets_no_green_mark(
    sides: Any, files: tuple[Path, Path], told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here a cell has one process a side."""
    for path, seed in zip(files, (1, 2), strict=True):
        sides.write(path, {FWD: 1.0}, passes=PASSES, seed=seed)
        with ResultFile(path) as file:
            sides.append(file, sides.row(BWD), sides.samples_of(1.0, np.random.default_rng(seed)))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    found = told()
    assert (found.code, found.mark) == (0, "⚠️")
    assert found.headline == "Nothing is worse in 1 cell; not decided: 1 AMBIGUOUS"
    assert f"::warning title=lbench compare::{found.headline}" in found.ran.err
    assert found.junit.get("skipped") == "1"
    for path in files:
        path.unlink()
        path.with_suffix(".samples.jsonl").unlink()
        sides.write(path, {FWD: 1.0}, passes=PASSES, seed=len(path.name) + (path == files[0]))
    found = told()
    assert (found.code, found.mark, found.headline) == (0, "✅", "Nothing is worse in 1 cell")


@pytest.mark.parametrize("days", [-2, 0, 2])
def test_rows_of_a_file_count_in_their_order_whatever_the_clock_was_set_to(
    sides: Any, files: tuple[Path, Path], told: Any, days: int
) -> None:
    for path in files:
        sides.write(path, {FWD: 1.0, BWD: 1.0}, seed=path == files[1])
    rng = np.random.default_rng(0)
    late = f"2026-01-{3 + days:02d}T00:00:00+00:00" if days != -2 else "2025-12-30T00:00:00+00:00"
    with ResultFile(files[1]) as file:
        sides.append(file, sides.row(FWD, time_utc=late), sides.samples_of(19.0, rng))
        file.append(sides.row(BWD, time_utc=late, status="crashed", reason="boom"))
    found = told()
    assert found.code == 1
    assert (found.verdict(FWD), found.verdict(BWD)) == ("SLOWER", "BROKEN")
    assert found.cells[FWD]["ratio"] == pytest.approx(19, rel=0.1)


def test_a_head_that_crashes_everywhere_and_a_base_that_lacks_rows_are_named(
    sides: Any, files: tuple[Path, Path], told: Any
) -> None:
    cases = {f"lightning2/fwd/b{number}": 1.0 for number in range(5)}
    sides.write(files[0], cases, passes=PASSES)
    early = {"status": "crashed", "reason": "boom", "time_utc": "2020-01-01T00:00:00+00:00"}
    sides.write(files[1], {case: sides.row(case, **early) for case in cases})
    found = told()
    assert (found.code, found.headline) == (1, "Worse: 5 BROKEN of 5 cells")
    assert "works in no cell of head: lightning2 (all 5 cells)" in found.data["remarks"]
    for path in files:
        path.unlink()
        path.with_suffix(".samples.jsonl").unlink(missing_ok=True)
    sides.write(files[0], {FWD: 1.0}, passes=PASSES)
    sides.write(files[1], {FWD: 1.0} | cases, passes=PASSES, seed=3)
    found = told()
    assert (found.code, found.headline) == (0, "Nothing is worse in 1 cell; only in head: 4")
    assert "base has no row of 4 of 5 cells: is it complete?" in found.data["remarks"]


def test_cells_of_both_sides_that_cannot_be_compared_are_not_green(
    sides: Any, files: tuple[Path, Path], told: Any
) -> None:
    sides.write(files[0], {FWD: 1.0, BWD: 1.0}, passes=PASSES)
    sides.write(files[1], {FWD: 1.0}, passes=PASSES, seed=3)
    with ResultFile(files[1]) as file:
        file.append(sides.row(BWD, median_ms=10.0, machine_id="other", driver="999"))
    found = told()
    assert (found.code, found.mark) == (3, "⚠️")
    assert found.headline == "Nothing is worse in 1 cell; not decided: 1 INCOMPARABLE"
    assert found.junit.get("errors") == "1"
    assert told("--allow", "INCOMPARABLE:*/bwd/*=another driver, see #1").code == 0
    assert told("--fail-on", "INCOMPARABLE").code == 1


def test_a_head_that_moved_to_another_machine_is_not_judged_by_its_older_rows(
    sides: Any, files: tuple[Path, Path], told: Any
) -> None:
    sides.write(files[0], {FWD: 1.0}, passes=PASSES)
    sides.write(files[1], {FWD: 1.0}, passes=PASSES, seed=3)
    with ResultFile(files[1]) as file:
        file.append(sides.row(FWD, median_ms=10.0, machine_id="other", driver="999"))
    found = told()
    assert (found.code, found.verdict()) == (3, "INCOMPARABLE")
    assert "driver none → 999" in found.cells[FWD]["detail"]


def test_unstable_rows_whose_intervals_lie_far_apart_are_slower(
    sides: Any, files: tuple[Path, Path], told: Any
) -> None:
    """35 to 78 times, with jitter of 30 %, in every cell."""
    rng = np.random.default_rng(1)
    cases = [f"lightning2/{way}/b{number}" for way in ("fwd", "bwd") for number in range(10)]
    for path, far in zip(files, (1.0, 50.0), strict=True):
        with ResultFile(path) as file:
            for case in cases:
                ms = far * float(np.exp(rng.normal(0, 0.2))) if far > 1 else 1.0
                wide = {
                    "status": "unstable",
                    "reason": "jitter",
                    "ci_low_ms": ms / 1.2,
                    "ci_high_ms": ms * 1.2,
                }
                sides.append(file, sides.row(case, **wide), sides.samples_of(ms, rng, spread=0.3))
    found = told("--threshold", "25%")
    assert found.code == 1
    assert found.data["counts"] == {"SLOWER": 20}


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"device": "cpu", "foreign_cpu_percent": 70.0}, "AMBIGUOUS"),
        ({"device": "cpu", "cpu_steal_percent": 9.0}, "AMBIGUOUS"),
        ({"device": "cpu", "foreign_cpu_percent": 2.0}, "SLOWER"),
        ({"device": "cuda", "foreign_cpu_percent": 70.0}, "SLOWER"),
        ({"device": "cpu", "foreign_cpu_percent": 70.0, "status": "ok"}, "SLOWER"),
    ],
)
def test_one_process_beside_foreign_load_shows_no_change(
    sides: Any, files: tuple[Path, Path], told: Any, changes: dict[str, Any], verdict: str
) -> None:
    """Six times in every cell, with intervals far apart: two runs of equal code on busy processors."""
    rng = np.random.default_rng(6)
    for path, ms in zip(files, (1.0, 6.0), strict=True):
        with ResultFile(path) as file:
            for case in (FWD, "lightning2/fwd/b2"):
                load = {"status": "unstable", "reason": "so", "ci_low_ms": 0.9 * ms, "ci_high_ms": 1.1 * ms}
                sides.append(file, sides.row(case, **load | changes), sides.samples_of(ms, rng))
    found = told()
    assert found.data["counts"] == {verdict: 2}
    assert found.overall["lightning2 fwd"]["verdict"] == verdict
    said = any("2 cells timed by one process on a side, beside" in each for each in found.data["remarks"])
    assert said == (verdict == "AMBIGUOUS")


@pytest.mark.parametrize("turns", [[29, 1], [1] * 30, [30], [1, 29], [26, 1, 1, 1, 1], [3] * 10])
def test_odd_turns_do_not_hide_ten_times(
    sides: Any, files: tuple[Path, Path], told: Any, turns: list[int]
) -> None:
    rng = np.random.default_rng(2)
    for path, ms in zip(files, (1.0, 10.0), strict=True):
        with ResultFile(path) as file:
            for number in range(12):
                times = sides.samples_of(ms, rng, spread=0.05)
                sides.append(file, sides.row(f"lightning2/fwd/b{number}"), times, turns=turns)
    assert told().data["counts"] == {"SLOWER": 12}


def test_one_process_of_a_kernel_that_tunes_itself_is_never_slower_and_many_may_be(
    sides: Any, files: tuple[Path, Path], told: Any
) -> None:
    fla, own = "fla-chunk/fwd/b1", {FWD: 1.0, BWD: 1.0}
    sides.write(files[0], {fla: 1.0} | own, seed=1)
    sides.write(files[1], {fla: 40.0} | own, seed=2)
    found = told()
    assert found.verdict(fla) == "AMBIGUOUS"
    assert "its autotuner may choose anew in each process" in found.cells[fla]["detail"]
    assert any(remark.startswith("fla-chunk: an autotuner") for remark in found.data["remarks"])
    for path in files:
        path.unlink()
        path.with_suffix(".samples.jsonl").unlink()
    sides.write(files[0], {fla: 1.0} | own, passes=PASSES, seed=1)
    sides.write(files[1], {fla: 1.1} | own, passes=PASSES, seed=2)
    assert told().verdict(fla) == "SLOWER"


def test_a_row_of_several_processes_had_several_tries(
    sides: Any, files: tuple[Path, Path], told: Any
) -> None:
    fla, own = "fla-chunk/fwd/b1", {FWD: 1.0, BWD: 1.0}
    for path, time, seed in zip(files, (1.0, 40.0), (1, 2), strict=True):
        sides.write(path, {fla: time} | own, seed=seed)
        frame = pd.read_csv(path)
        frame.assign(processes=3, between_percent=0.3).to_csv(path, index=False)
    found = told()
    assert found.verdict(fla) == "SLOWER"
    assert found.verdict(FWD) != "SLOWER"
    (remark,) = [remark for remark in found.data["remarks"] if "noise between runs is assumed" in remark]
    assert "(1 % on cuda, 30 % of a kernel that tunes itself" in remark


def test_an_overall_verdict_is_accepted_by_its_name_or_with_the_cells_that_make_it(
    sides: Any, files: tuple[Path, Path], told: Any
) -> None:
    cases = {f"lightning2/fwd/b{number}": 1.0 for number in range(6)}
    sides.write(files[0], cases, passes=PASSES)
    sides.write(files[1], dict.fromkeys(cases, 1.2), passes=PASSES, seed=3)
    found = told()
    assert found.overall["lightning2 fwd"]["verdict"] == "SLOWER"
    assert found.headline.startswith("Worse: 6 SLOWER of 6 cells; over all: lightning2 fwd +")
    assert told("--allow", "SLOWER:lightning2/fwd/b[0-4]=known").code == 1
    assert told("--allow", "SLOWER:lightning2/fwd/b*=known").code == 0
    only = told("--allow", "lightning2/fwd/overall=known")
    assert (only.code, only.headline) == (1, "Worse: 6 SLOWER of 6 cells")


def test_few_passes_call_a_cell_only_if_two_configurations_cannot_look_like_it(
    sides: Any, files: tuple[Path, Path], told: Any
) -> None:
    cases = {f"lightning2/fwd/b{number}": 1.0 for number in range(12)}
    slow = {case: 1.1 if case.endswith("b3") else 2.5 if case.endswith("b4") else 1.0 for case in cases}
    sides.write(files[0], cases, passes=4, noise=0.0005)
    sides.write(files[1], slow, passes=4, noise=0.0005, seed=3)
    found = told()
    assert found.verdict("lightning2/fwd/b3") == "AMBIGUOUS"
    assert found.cells["lightning2/fwd/b3"]["resolution"] == pytest.approx(1.0), "only what doubles is found"
    assert found.verdict("lightning2/fwd/b4") == "SLOWER", "by chance it does not double four times"
    assert any("1 cell changed in every process" in remark for remark in found.data["remarks"])


@pytest.mark.parametrize(
    ("passes", "unstable", "verdict"),
    [(2, 2, "AMBIGUOUS"), (2, 0, "SLOWER"), (3, 2, "AMBIGUOUS"), (4, 2, "SLOWER"), (9, 9, "SLOWER")],
)
def test_what_doubles_in_few_passes_is_slower_only_if_two_of_them_were_undisturbed(
    sides: Any, files: tuple[Path, Path], told: Any, passes: int, unstable: int, verdict: str
) -> None:
    """Six times in every cell and pass, which is what a busy machine does by itself."""
    rng = np.random.default_rng(5)
    for path, ms in zip(files, (1.0, 6.0), strict=True):
        with ResultFile(path) as file:
            for number in range(passes):
                how = {"status": "unstable", "reason": "other processes used 1.9 of 2 processors"}
                for case in (FWD, "lightning2/fwd/b2"):
                    row = sides.row(case, **(how if number < unstable else {}))
                    sides.append(file, row, sides.samples_of(ms, rng, spread=0.2), pair=f"p{number}")
    found = told()
    assert found.data["counts"] == {verdict: 2}
    assert found.overall["lightning2 fwd"]["verdict"] == verdict
    said = any("on a busy machine times double by themselves" in each for each in found.data["remarks"])
    assert said == (verdict == "AMBIGUOUS")
    assert (found.cells[FWD]["resolution"] is None) == (unstable > passes - 2 and passes < 9)


def test_two_runs_against_twelve(sides: Any, told: Any, tmp_path: Path, files: tuple[Path, Path]) -> None:
    """Two that agree by chance make no narrow interval."""
    for number in range(12):
        sides.write(tmp_path / "many" / f"{number}.csv", {FWD: 1.0}, noise=0.02, seed=number)
    for number in range(2):
        sides.write(tmp_path / "two" / f"{number}.csv", {FWD: 1.06}, noise=0.0, seed=50 + number)
    found = told(of=(tmp_path / "many", tmp_path / "two"))
    assert found.verdict() == "AMBIGUOUS"
    assert found.cells[FWD]["base_blocks"] == 12


def test_the_rows_that_were_copied_are_those_of_the_file(files: tuple[Path, Path]) -> None:
    slower_copy(PAPER, files[0], 1.0)
    before = [replace(record, floor_ratio=None) for record in read_records(PAPER)]
    assert [replace(record, floor_ratio=None) for record in read_records(files[0])] == before
