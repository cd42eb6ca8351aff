"""`lbench compare BASE HEAD`: every verdict, the exit codes, and what is accepted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_bench.comparison.sides import read_side
from lightning_bench.errors import UsageError
from lightning_bench.record import ResultFile

Case = dict[str, Any]
FWD, BWD = "lightning2/fwd/b1", "lightning2/bwd/b1"
PASSES = 12


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    monkeypatch.chdir(tmp_path)
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "base.csv", tmp_path / "head.csv"


def compared(lbench: Callable[..., Any], files: tuple[Path, Path], *more: str) -> tuple[int, dict[str, Case]]:
    ran = lbench("compare", *files, "--json", *more)
    assert ran.out, ran.err
    data = json.loads(ran.out)
    assert data["exit_code"] == ran.code
    return ran.code, {cell["case_id"]: cell for cell in data["cells"]}


def test_slower_faster_and_same_of_interleaved_passes(
    sides: Any, lbench: Callable[..., Any], files: tuple[Path, Path]
) -> None:
    base = {FWD: 1.0, BWD: 2.0, "fla/fwd/b1": 3.0}
    sides.write(files[0], base, passes=PASSES, seed=1)
    sides.write(files[1], {FWD: 1.05, BWD: 1.9, "fla/fwd/b1": 3.0}, passes=PASSES, seed=2)
    code, cells = compared(lbench, files)
    assert code == 1
    assert {case: cell["verdict"] for case, cell in cells.items()} == {
        FWD: "SLOWER",
        BWD: "FASTER",
        "fla/fwd/b1": "SAME",
    }
    slower = cells[FWD]
    assert slower["low"] < slower["ratio"] < slower["high"]
    assert slower["ratio"] == pytest.approx(1.05, abs=0.01)
    assert (slower["base_blocks"], slower["head_blocks"], slower["paired"]) == (PASSES, PASSES, True)
    assert slower["noise"] == "measured"


def test_one_run_per_side_is_judged_by_an_assumed_noise_which_the_cell_names(
    sides: Any, lbench: Callable[..., Any], files: tuple[Path, Path]
) -> None:
    sides.write(files[0], {FWD: 1.0, BWD: 1.0}, seed=1)
    sides.write(files[1], {FWD: 1.02, BWD: 1.2}, seed=2)
    code, cells = compared(lbench, files)
    assert code == 1
    assert [cells[case]["verdict"] for case in (FWD, BWD)] == ["AMBIGUOUS", "SLOWER"]
    assert {cell["noise"] for cell in cells.values()} == {"assumed"}
    ran = lbench("compare", *files)
    assert "assumed (1 % on cuda). `lbench calibrate` measures it" in ran.err
    assert "2 of 2 cells cannot resolve the threshold of 3 %: in half of them a change must exceed" in ran.err


def test_a_folder_of_csvs_is_as_many_runs(
    sides: Any, lbench: Callable[..., Any], tmp_path: Path, files: tuple[Path, Path]
) -> None:
    for side, ms in (("a", 1.0), ("b", 1.06)):
        for number in range(8):
            sides.write(
                tmp_path / side / f"{number}.csv", {FWD: ms}, seed=10 * number + len(side) + int(ms * 100)
            )
    code, cells = compared(lbench, (tmp_path / "a", tmp_path / "b"))
    assert code == 1
    assert cells[FWD]["verdict"] == "SLOWER"
    assert (cells[FWD]["base_blocks"], cells[FWD]["head_blocks"], cells[FWD]["paired"]) == (8, 8, False)


@pytest.mark.parametrize("status", ["crashed", "wrong", "timeout", "oom", "unavailable"])
def test_what_worked_and_does_not_now_is_broken_and_the_other_way_fixed(
    sides: Any, lbench: Callable[..., Any], files: tuple[Path, Path], status: str
) -> None:
    failed = sides.row(FWD, status=status, reason="boom")
    sides.write(files[0], {FWD: 1.0, BWD: 1.0}, passes=PASSES)
    sides.write(files[1], {FWD: failed, BWD: 1.0}, passes=PASSES, seed=5)
    code, cells = compared(lbench, files)
    assert (code, cells[FWD]["verdict"]) == (1, "BROKEN")
    assert cells[FWD]["detail"] == f"now {status}: boom"
    assert cells[FWD]["ratio"] is None
    code, cells = compared(lbench, (files[1], files[0]))
    assert (code, cells[FWD]["verdict"]) == (0, "NEW" if status == "unavailable" else "FIXED")


def test_a_crash_in_a_later_process_is_broken_though_earlier_ones_worked(
    sides: Any, lbench: Callable[..., Any], files: tuple[Path, Path]
) -> None:
    sides.write(files[0], {FWD: 1.0, BWD: 1.0}, passes=PASSES)
    sides.write(files[1], {FWD: 0.5, BWD: 1.0}, passes=PASSES, seed=5)
    with ResultFile(files[1]) as file:
        file.append(sides.row(FWD, status="crashed", reason="now and then"))
    code, cells = compared(lbench, files)
    assert (code, cells[FWD]["verdict"]) == (1, "BROKEN")


def test_missing_fails_and_new_does_not(
    sides: Any, lbench: Callable[..., Any], files: tuple[Path, Path]
) -> None:
    sides.write(files[0], {FWD: 1.0, BWD: 1.0}, passes=PASSES)
    sides.write(files[1], {FWD: 1.0, "fla/fwd/b1": 1.0}, passes=PASSES, seed=3)
    code, cells = compared(lbench, files)
    assert code == 1
    assert {case: cell["verdict"] for case, cell in cells.items()} == {
        FWD: "SAME",
        BWD: "MISSING",
        "fla/fwd/b1": "NEW",
    }


def test_other_machines_versions_and_protocols_are_incomparable(
    sides: Any, lbench: Callable[..., Any], files: tuple[Path, Path]
) -> None:
    sides.write(files[0], {FWD: 1.0, BWD: 1.0}, passes=PASSES, torch="2.10")
    sides.write(files[1], {FWD: 1.0}, passes=PASSES, seed=3, torch="2.11", machine_id="def")
    with ResultFile(files[1]) as file:
        file.append(sides.row(BWD, protocol="paper", mean_ms=1.0))
    code, cells = compared(lbench, files)
    assert code == 3
    assert {cell["verdict"] for cell in cells.values()} == {"INCOMPARABLE"}
    assert cells[FWD]["detail"] == "torch 2.10 → 2.11"
    assert "give --across-machines" in lbench("compare", *files).err
    code, cells = compared(lbench, files, "--across-machines")
    assert (code, cells[FWD]["verdict"], cells[BWD]["verdict"]) == (3, "SAME", "INCOMPARABLE")
    accept = ("--across-machines", "--allow", "INCOMPARABLE:*/bwd/*=by protocol paper from now on")
    assert compared(lbench, files, *accept)[0] == 0


def test_memory_grows_beyond_half_a_per_cent(
    sides: Any, lbench: Callable[..., Any], files: tuple[Path, Path]
) -> None:
    def memory(case: str, extra: float, saved: float) -> Any:
        return sides.row(case, metric="memory", extra_mib=extra, saved_mib=saved)

    names = [f"lightning2/bwd/b{n}" for n in range(5)]
    before = [(100.0, 10.0)] * 4 + [(0.0, 0.0)]
    after = [(100.4, 10.0), (100.6, 10.0), (100.0, 10.1), (99.0, 10.0), (1.0, 0.0)]
    for file, figures in zip(files, (before, after), strict=True):
        sides.write(file, {name: memory(name, *both) for name, both in zip(names, figures, strict=True)})
    code, cells = compared(lbench, files)
    assert code == 1
    assert [cells[name]["verdict"] for name in names] == ["SAME", "GREW", "GREW", "SHRANK", "GREW"]
    assert cells[names[2]]["detail"] == "saved_mib"


@pytest.mark.parametrize("case", ["empty", "header", "disjoint"])
def test_nothing_compared_is_no_pass(
    sides: Any, lbench: Callable[..., Any], files: tuple[Path, Path], case: str
) -> None:
    sides.write(files[0], {FWD: 1.0})
    if case == "empty":
        files[1].touch()
    elif case == "header":
        ResultFile(files[1]).close()
    else:
        sides.write(files[1], {"fla/fwd/b9": 1.0})
    ran = lbench("compare", *files, "--fail-on", "SLOWER")
    assert ran.code == 3
    assert "nothing was compared" in ran.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["base.csv"], "1 input; give two CSVs"),
        (
            ["base.csv", "--provider", "fla"],
            "one CSV and two of its providers (--provider lightning2 --against",
        ),
        (["base.csv", "nowhere.csv"], "there is no such file"),
        (["base.csv", "notes.csv"], "is not a result file of lbench"),
        (["base.csv", "base.csv", "--threshold", "3 apples"], "is not between 0 and 100 %; allowed"),
        (["base.csv", "base.csv", "--threshold", "3"], "(did you mean `3%`?)"),
        (["base.csv", "base.csv", "--threshold", "0%"], "is not between 0 and 100 %; allowed"),
        (["base.csv", "base.csv", "--fail-on", "SLOW"], "--fail-on SLOW is not known; allowed: SLOWER"),
        (["base.csv", "base.csv", "--allow", "lightning2/*"], "gives no reason"),
        (["base.csv", "--against", "fla"], "--against compares two providers of one run"),
        (
            ["base.csv", "--provider", "fla", "--against", "lightning2"],
            "has no rows of fla; allowed: lightning2",
        ),
        (["base.csv", "base.csv", "--seq-len", "512"], "go with --ref"),
        (["base.csv", "base.csv", "--json", "--markdown"], "give one"),
        (["base.csv", "base.csv", "--calibration", "notes.csv"], "is not a calibration of lbench"),
    ],
)
def test_usage_is_refused_with_what_to_do(
    sides: Any, lbench: Callable[..., Any], files: tuple[Path, Path], arguments: list[str], says: str
) -> None:
    sides.write(files[0], {FWD: 1.0})
    Path("notes.csv").write_text("a,b\n1,2\n")
    ran = lbench("compare", *arguments)
    assert ran.code == 2
    assert says in ran.err


def test_fail_on_and_allow_choose_what_counts(
    sides: Any, lbench: Callable[..., Any], files: tuple[Path, Path]
) -> None:
    sides.write(files[0], {FWD: 1.0, BWD: 1.0}, passes=PASSES)
    sides.write(files[1], {FWD: 1.2, BWD: 1.2}, passes=PASSES, seed=3)
    code, cells = compared(lbench, files, "--allow", "*/fwd/*=known, see issue 12")
    assert code == 1
    assert cells[FWD]["accepted"] == "known, see issue 12"
    assert cells[BWD]["accepted"] == ""
    ran = lbench("compare", *files, "--allow", "*/?wd/*=known", "--allow", "nothing/*=typo")
    assert ran.code == 0
    assert "--allow 'nothing/*' matches nothing that is worse: remove it" in ran.err
    assert compared(lbench, files, "--fail-on", "broken,missing")[0] == 0
    assert compared(lbench, (files[1], files[0]), "--fail-on", "faster")[0] == 1


def test_two_providers_of_one_run(sides: Any, lbench: Callable[..., Any], files: tuple[Path, Path]) -> None:
    alone = {"flash2/fwd/b2": 2.0, "flash2/fwd/b3": 2.0, "lightning2/fwd/b4": 1.0}
    sides.write(files[0], {FWD: 1.0, "flash2/fwd/b1": 2.0, **alone})
    ran = lbench("compare", files[0], "--provider", "lightning2", "--against", "flash2", "--json")
    cells = json.loads(ran.out)["cells"]
    assert {(cell["case_id"], cell["verdict"]) for cell in cells} == {
        ("lightning2 against flash2/fwd/b1", "FASTER"),
    }
    assert ran.code == 0
    assert cells[0]["ratio"] == pytest.approx(0.5, rel=0.03)
    remarks = json.loads(ran.out)["remarks"]
    assert "2 cases left out, of which only flash2 has a row" in remarks
    assert "1 case left out, of which only lightning2 has a row" in remarks


def test_geometric_means_by_family_and_direction(
    sides: Any, lbench: Callable[..., Any], files: tuple[Path, Path]
) -> None:
    cases = {f"lightning2/{way}/b{n}": 1.0 for way in ("fwd", "bwd") for n in range(4)}
    sides.write(files[0], cases, passes=PASSES)
    sides.write(files[1], {c: 1.1 if "fwd" in c else 1.0 for c in cases}, passes=PASSES, seed=9)
    overall = json.loads(lbench("compare", *files, "--json").out)["overall"]
    by_way = {mean["direction"]: mean for mean in overall}
    assert by_way["fwd"]["cells"] == 4
    assert by_way["fwd"]["low"] < 1.1 < by_way["fwd"]["high"]
    assert by_way["bwd"]["low"] < 1.0 < by_way["bwd"]["high"]
    assert by_way["fwd"]["low"] > 1.08


def test_samples_are_used_and_not_only_the_medians(sides: Any, files: tuple[Path, Path]) -> None:
    """Two rows of one median: the one whose samples drifted from turn to turn is known less well."""
    still, drifting = np.linspace(0.99, 1.01, 30), np.linspace(0.8, 1.2, 30)
    rng = np.random.default_rng(0)
    with ResultFile(files[0]) as file:
        sides.append(file, sides.row(FWD), list(rng.permutation(still)))
        sides.append(file, sides.row(BWD), list(drifting))
    first, second = read_side(files[0]).runs
    assert first.log_ms == pytest.approx(second.log_ms)
    assert (first.df, second.df) == (5, 5)
    assert second.variance > 20 * first.variance
    files[0].with_suffix(".samples.jsonl").unlink()
    assert read_side(files[0]).remarks == [
        f"{files[0]}: 2 of 2 rows lack their samples in base.samples.jsonl: their intervals are used"
    ]


def test_lines_of_older_files_without_turns_and_torn_ones_are_read(
    sides: Any, files: tuple[Path, Path]
) -> None:
    with ResultFile(files[0]) as file:
        record = sides.row(FWD, median_ms=1.0)
        file.append_samples(sides.row(FWD), {"samples_ms": [9.0] * 30})  # its row was never written
        file.append_samples(record, {"samples_ms": [0.9] * 10 + [1.0] * 10 + [1.1] * 10})
        file.append(record)
    path = files[0].with_suffix(".samples.jsonl")
    path.write_bytes(path.read_bytes() + b'{"case_id": "torn')
    (run,) = read_side(files[0]).runs
    assert (run.df, run.pair) == (5, "")
    assert run.variance > 0


def test_a_line_that_is_no_samples_is_named(sides: Any, files: tuple[Path, Path]) -> None:
    sides.write(files[0], {FWD: 1.0})
    path = files[0].with_suffix(".samples.jsonl")
    path.write_bytes(path.read_bytes() + b'{"case_id": "other"}\n')
    with pytest.raises(UsageError, match=r"base\.samples\.jsonl, line 2: not samples of lbench"):
        read_side(files[0])


def test_the_last_row_of_the_latest_version_counts(sides: Any, files: tuple[Path, Path]) -> None:
    from lightning_bench.comparison.judge import compare_sides

    rng = np.random.default_rng(0)
    with ResultFile(files[0]) as file:
        for version, ms in (("1", 5.0), ("2", 3.0), ("2", 1.0)):
            sides.append(file, sides.row(FWD, provider_version=version), sides.samples_of(ms, rng))
    sides.write(files[1], {FWD: 1.0})
    (cell,) = compare_sides(*map(read_side, files), threshold=0.03).cells
    assert cell.base == pytest.approx(1.0, rel=0.02)
    assert cell.base_blocks == 1


def test_one_crash_in_several_runs_of_head_is_broken_whichever_it_is(
    sides: Any, lbench: Callable[..., Any], tmp_path: Path, files: tuple[Path, Path]
) -> None:
    for side in ("a", "b"):
        for number in range(4):
            late = f"2026-01-01T00:0{number}:00+00:00"
            sides.write(tmp_path / side / f"{number}.csv", {FWD: 1.0}, seed=number, time_utc=late)
    with ResultFile(tmp_path / "b" / "1.csv") as file:
        crash = sides.row(FWD, status="crashed", reason="boom", time_utc="2026-01-01T00:01:30+00:00")
        file.append(crash)
    code, cells = compared(lbench, (tmp_path / "a", tmp_path / "b"))
    assert (code, cells[FWD]["verdict"]) == (1, "BROKEN")
    assert cells[FWD]["detail"] == "now crashed: boom (in 1 of 4 runs)"


def test_a_protocol_that_one_side_lacks_is_missing_and_other_machines_are_remarked(
    sides: Any, lbench: Callable[..., Any], files: tuple[Path, Path]
) -> None:
    for path in files:
        sides.write(path, {FWD: 1.0}, passes=PASSES, seed=path.name == "head.csv")
    with ResultFile(files[0]) as file:
        file.append(sides.row(FWD, protocol="paper", mean_ms=1.0))
        file.append(sides.row(FWD, machine_id="other", median_ms=1.0))
    ran = lbench("compare", *files, "--json")
    found = {(cell["protocol"], cell["verdict"]) for cell in json.loads(ran.out)["cells"]}
    assert (ran.code, found) == (1, {("lbench", "SAME"), ("paper", "MISSING")})
    assert any("rows of another machine too" in remark for remark in json.loads(ran.out)["remarks"])


@pytest.mark.parametrize("figure", [0.0, None, float("nan")])
def test_a_row_of_head_that_worked_and_has_no_time_is_no_pass(
    sides: Any, lbench: Callable[..., Any], files: tuple[Path, Path], figure: float | None
) -> None:
    sides.write(files[0], {FWD: 1.0, BWD: 1.0})
    sides.write(files[1], {FWD: sides.row(FWD, median_ms=figure), BWD: 1.0}, seed=1)
    code, cells = compared(lbench, files)
    assert (code, cells[FWD]["verdict"]) == (1, "BROKEN")
    assert cells[FWD]["detail"] == "a row that worked has no time"


def test_the_figures_shown_leave_out_a_disturbed_process_as_the_rule_does(
    sides: Any, lbench: Callable[..., Any], files: tuple[Path, Path]
) -> None:
    rng = np.random.default_rng(2)
    for path in files:
        with ResultFile(path) as file:
            for number in range(PASSES):
                times = sides.samples_of(90.0 if number == 0 else 1.0, rng)
                sides.append(file, sides.row(FWD), times, pair=f"p{number}")
    _, cells = compared(lbench, files)
    assert (cells[FWD]["base"], cells[FWD]["head"]) == pytest.approx((1.0, 1.0), rel=0.01)


def test_the_cell_counts_unstable_blocks_even_if_the_last_was_stable(
    sides: Any, lbench: Callable[..., Any], files: tuple[Path, Path]
) -> None:
    sides.write(files[0], {FWD: 1.0}, passes=PASSES)
    rng = np.random.default_rng(1)
    with ResultFile(files[1]) as file:
        for number in range(PASSES):
            status = {"status": "unstable", "reason": "throttled"} if number in (2, 5) else {}
            sides.append(file, sides.row(FWD, **status), sides.samples_of(1.0, rng), pair=f"p{number}")
    _, cells = compared(lbench, files)
    assert cells[FWD]["detail"] == "head unstable in 2 of 12 blocks: throttled"


def test_a_pattern_with_a_verdict_accepts_only_that_verdict(
    sides: Any, lbench: Callable[..., Any], files: tuple[Path, Path]
) -> None:
    sides.write(files[0], {FWD: 1.0, BWD: 1.0}, passes=PASSES)
    crash = sides.row(BWD, status="crashed", reason="boom")
    sides.write(files[1], {FWD: 1.2, BWD: crash}, passes=PASSES, seed=3)
    code, cells = compared(lbench, files, "--allow", "SLOWER:lightning2/*=known")
    assert code == 1
    assert (cells[FWD]["accepted"], cells[BWD]["accepted"]) == ("known", "")
    assert compared(lbench, files, "--allow", "lightning2/*=known")[0] == 0


def test_patterns_that_overlap_are_both_used_and_what_is_accepted_is_counted(
    sides: Any, lbench: Callable[..., Any], files: tuple[Path, Path]
) -> None:
    sides.write(files[0], {FWD: 1.0, BWD: 1.0}, passes=PASSES)
    sides.write(files[1], {FWD: 1.2, BWD: 1.0}, passes=PASSES, seed=3)
    ran = lbench("compare", *files, "--allow", "*/fwd/*=known", "--allow", "lightning2/*=also")
    assert ran.code == 0
    assert "matches nothing" not in ran.err
    assert "Nothing is worse in 2 cells but 1 that is accepted." in ran.out
