"""`lbench history` and `lbench calibrate`: change points, and the noise floor of a machine."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_bench.comparison.calibration import noise_floor
from lightning_bench.comparison.noise import Noises, read_calibration, write_calibration
from lightning_bench.comparison.sides import read_side
from lightning_bench.errors import LbenchError, UsageError
from lightning_bench.history.changes import change_points
from lightning_bench.history.series import read_history

FWD, BWD = "lightning2/fwd/b1", "lightning2/bwd/b1"


def test_levels_are_found_where_they_change() -> None:
    rng = np.random.default_rng(0)
    levels = np.repeat([0.0, 0.05, 0.0, -0.1], [12, 8, 10, 9])
    found = change_points(levels + rng.normal(0, 0.005, len(levels)))
    assert found == [12, 20, 30]


def test_one_disturbed_run_is_no_level_and_hides_none() -> None:
    rng = np.random.default_rng(4)
    false = missed = 0
    for _ in range(100):
        series = rng.normal(0, 0.005, 20)
        series[rng.integers(20)] += 0.5
        false += bool(change_points(series))
        step = rng.normal(0, 0.005, 20) + np.repeat([0.0, 0.05], 10)
        step[rng.choice([2, 5, 14, 17])] += 0.5
        missed += change_points(step) != [10]
    assert false <= 8
    assert missed <= 8


def test_noise_gives_changes_in_few_of_many_series_and_in_none_with_too_few_points() -> None:
    rng = np.random.default_rng(1)
    hits = sum(bool(change_points(rng.standard_t(4, 20) * 0.01)) for _ in range(200))
    assert hits <= 10
    assert change_points(np.array([0.0, 0.0, 0.0, 9.0, 9.0])) == []
    assert change_points(np.zeros(50)) == []


@pytest.fixture
def results(sides: Any, tmp_path: Path) -> Path:
    """Twelve commits, the last five 10 % faster, in two files, and another case on another machine."""
    rng = np.random.default_rng(2)
    for name, commits in (("old", range(6)), ("new", range(6, 12))):
        rows = {}
        with sides.ResultFile(tmp_path / f"{name}.csv") as file:
            for number in commits:
                ms = float((1.0 if number < 7 else 0.9) * np.exp(rng.normal(0, 0.003)))
                for again in range(2):
                    record = sides.row(
                        FWD,
                        harness_commit=f"commit{number:02d}",
                        time_utc=f"2026-01-{number + 1:02d}T0{again}:00:00+00:00",
                    )
                    sides.append(file, record, [ms] * 10)
            sides.append(file, sides.row(BWD, machine_id="other"), [2.0] * 10)
        assert rows == {}
    return tmp_path


def test_times_of_energy_rows_are_no_points(lbench: Callable[..., Any], results: Path, sides: Any) -> None:
    with sides.ResultFile(results / "energy.csv") as file:  # the same case with warm caches
        row = sides.row(FWD, metric="energy", harness_commit="warm", time_utc="2026-01-20T00:00:00+00:00")
        sides.append(file, row, [0.5] * 10)
    data = json.loads(lbench("history", results, "--case", FWD, "--json").out)
    assert [point["label"] for point in data["points"]] == [f"commit{n:02d}" for n in range(12)]


def test_history_of_a_case_over_commits_and_dates(lbench: Callable[..., Any], results: Path) -> None:
    ran = lbench("history", results, "--case", FWD, "--json", "--plot", results / "plot" / "h.png")
    assert ran.code == 0, ran.err
    data = json.loads(ran.out)
    assert [point["label"] for point in data["points"]] == [f"commit{n:02d}" for n in range(12)]
    changes = {point["label"]: point["change"] for point in data["points"] if point["change"]}
    assert list(changes) == ["commit07"]
    assert changes["commit07"] == pytest.approx(0.9, abs=0.01)
    assert (results / "plot" / "h.png").stat().st_size > 5000
    ran = lbench("history", results, "--case", FWD, "--by", "run")
    assert ran.out.count("2026-01-") == 24
    assert "-10." in ran.out or "-9." in ran.out


def test_rows_of_all_files_are_joined_by_time_each_once(sides: Any, tmp_path: Path) -> None:
    old, new = (sides.row(FWD, time_utc=f"2026-0{month}-01T00:00:00+00:00") for month in (1, 2))
    undated = sides.row(BWD, time_utc="")
    for rows in ([new, undated], [old, new]):
        with sides.ResultFile(tmp_path / "x.csv", fresh=True) as file:  # sets the first file aside
            for row in rows:
                file.append(row)
    assert read_history([tmp_path])["time_utc"].tolist() == [old.time_utc, new.time_utc]
    assert len(list(tmp_path.glob("*.csv"))) == 2
    (tmp_path / "x.csv").unlink()
    sides.write(tmp_path / "y.csv", {FWD: undated})
    with pytest.raises(UsageError, match="no rows of lbench in"):
        read_history([tmp_path / "y.csv"])


def test_each_protocol_has_its_own_history(sides: Any, lbench: Callable[..., Any], tmp_path: Path) -> None:
    with sides.ResultFile(tmp_path / "both.csv") as file:
        for protocol, ms in (("lbench", 1.0), ("paper", 2.0)):
            file.append(sides.row(FWD, protocol=protocol, mean_ms=ms, harness_commit=protocol))
    for more, figure in (([], 1.0), (["--protocol", "paper"], 2.0)):
        ran = lbench("history", tmp_path, "--figure", "mean_ms", "--json", *more)
        data = json.loads(ran.out)
        assert [point["figure"] for point in data["points"]] == [figure]
        assert data["least_percent"] == pytest.approx(2.0, abs=0.01)
    ran = lbench("history", tmp_path, "--protocol", "mine")
    assert ran.code == 2
    assert "allowed: lbench, paper" in ran.err


def test_versions_that_one_commit_of_the_harness_measured_are_points_of_their_own(
    sides: Any, lbench: Callable[..., Any], tmp_path: Path
) -> None:
    for name, ms in (("base", 1.0), ("head", 2.0)):
        sides.write(tmp_path / f"{name}.csv", {FWD: ms}, passes=3, provider_version=f"0.1.0+{name}")
    points = json.loads(lbench("history", tmp_path, "--json").out)["points"]
    assert [(point["version"], point["rows"]) for point in points] == [("0.1.0+base", 3), ("0.1.0+head", 3)]
    assert [point["figure"] for point in points] == pytest.approx([1.0, 2.0], rel=0.02)


def test_history_lists_the_cases_if_not_exactly_one_matches(
    lbench: Callable[..., Any], results: Path
) -> None:
    ran = lbench("history", results)
    assert ran.code == 2
    assert "2 cases match; give one by --case" in ran.err
    assert f"{BWD} on machine other" in ran.err
    assert lbench("history", results, "--machine", "other", "--json").code == 0
    for arguments, says in (
        (["--figure", "speed"], "--figure 'speed' is not known; allowed: median_ms"),
        (["--case", "nothing"], "no case matches"),
        (["--by", "week"], "allowed: commit, day, run"),
        (["--plot", "x.gif"], "does not end with .png"),
        (["--figure", "extra_mib"], "no row has extra_mib"),
    ):
        ran = lbench("history", results, *arguments)
        assert ran.code == 2
        assert says in ran.err


def test_calibration_gives_back_the_noise_that_went_in(sides: Any, tmp_path: Path) -> None:
    cases = {FWD: 1.0, BWD: 2.0}
    paths = [
        sides.write(tmp_path / f"{name}.csv", cases, passes=200, noise=0.01, seed=seed)
        for seed, name in enumerate("ab")
    ]
    rows = noise_floor(read_side(paths[0]), read_side(paths[1]), threshold=0.03, pairs=16)
    assert [row.case_id for row in rows] == [FWD, BWD]
    for row in rows:
        assert row.pair_noise_percent == pytest.approx(1.0, abs=0.15)  # and the samples' own, 0.2
        assert row.run_noise_percent == pytest.approx(1.0, abs=0.15)
        assert row.resolution_percent < 3 < row.resolution_two_runs_percent
        assert row.false_alarm_rate <= row.sweep_false_alarm_rate <= 0.01
    path = tmp_path / "x-calibration.csv"
    write_calibration(path, rows)
    assert read_calibration(path) == [
        replace(row, **{k: float(f"{v:.6g}") for k, v in vars(row).items() if isinstance(v, float)})
        for row in rows
    ]
    noises = Noises(read_calibration(path))
    own, other, nowhere = (noises.of(*key) for key in (("abc", FWD), ("abc", "x/fwd/b9"), ("else", FWD)))
    assert own is not None
    assert other is not None
    assert (own.source, other.source, nowhere) == ("calibrated", "calibrated on other cases", None)


def test_a_calibration_below_results_is_used_and_the_cell_names_it(
    sides: Any, lbench: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pair = [
        sides.write(tmp_path / f"{n}.csv", {FWD: 1.0}, passes=24, noise=0.002, seed=i)
        for i, n in enumerate("ab")
    ]
    base = sides.write(tmp_path / "in" / "base.csv", {FWD: 1.0}, seed=5, noise=0)
    head = sides.write(tmp_path / "in" / "head.csv", {FWD: 1.03}, seed=5, noise=0)

    def verdict() -> tuple[str, str]:
        (cell,) = json.loads(lbench("compare", base, head, "--json").out)["cells"]
        return cell["verdict"], cell["noise"]

    assert verdict() == ("AMBIGUOUS", "assumed")
    rows = noise_floor(*(read_side(path) for path in pair), threshold=0.03, pairs=16)
    write_calibration(tmp_path / "results" / "gpu" / "x-calibration.csv", rows)
    assert verdict() == ("SLOWER", "calibrated")


def test_one_is_singular(lbench: Callable[..., Any], results: Path) -> None:
    one = lbench("history", results, "--case", BWD)
    assert one.err.startswith("1 point: ")
    many = lbench("history", results, "--case", "*")
    assert many.code == 2
    assert "machine other (1 row)" in many.err
    assert "(24 rows)" in many.err


def test_one_disturbed_process_does_not_spoil_a_calibration_for_comparisons_in_passes(
    sides: Any, tmp_path: Path
) -> None:
    rng = np.random.default_rng(3)
    for name in "ab":
        with sides.ResultFile(tmp_path / f"{name}.csv") as file:
            for number in range(24):
                ms = 90.0 if (name, number) == ("a", 7) else float(np.exp(rng.normal(0, 0.005)))
                sides.append(file, sides.row(FWD), [ms] * 10, pair=f"p{number}")
    paths = [tmp_path / f"{name}.csv" for name in "ab"]
    (row,) = noise_floor(*(read_side(path) for path in paths), threshold=0.03, pairs=16)
    assert row.pair_noise_percent < 1.0
    assert row.run_noise_percent > 50, "one process a side may be such a one"
    assert (row.df, row.pair_df) == (23, pytest.approx(13.5))


def test_two_providers_of_one_run_have_each_its_own_calibration(
    sides: Any, lbench: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fla = FWD.replace("lightning2", "fla")
    sides.write(tmp_path / "run.csv", {FWD: 1.0, fla: 1.0}, noise=0)

    def resolution(noisy: str) -> tuple[float, str]:
        pair = [
            sides.write(tmp_path / noisy / f"{n}.csv", {FWD: 1.0}, passes=24, noise=0.001, seed=i)
            for i, n in enumerate("ab")
        ]
        (row,) = noise_floor(*(read_side(path) for path in pair), threshold=0.03, pairs=16)
        noise = {FWD: 0.2, fla: 0.2} | {noisy: 5.0}
        rows = [replace(row, case_id=case, run_noise_percent=one) for case, one in noise.items()]
        write_calibration(tmp_path / f"{noisy[:3]}-calibration.csv", rows)
        arguments = ("run.csv", "--provider", "lightning2", "--against", "fla", "--json")
        ran = lbench("compare", *arguments, "--calibration", f"{noisy[:3]}-calibration.csv")
        (cell,) = json.loads(ran.out)["cells"]
        return cell["resolution"], cell["noise"]

    both = [resolution(case) for case in (FWD, fla)]
    assert both[0][0] == pytest.approx(both[1][0], rel=0.05)
    assert both[0][0] > 0.15
    assert {source for _, source in both} == {"calibrated"}


def test_an_unstable_row_has_at_least_the_variance_of_its_interval(
    sides: Any, lbench: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of few samples may agree by chance; a row known to ±80 % must not make a clear change.

    It does if the rows' own intervals lie apart by more than the threshold.
    """

    monkeypatch.chdir(tmp_path)
    files = tmp_path / "base.csv", tmp_path / "head.csv"

    def verdict(far: float = 1.6, *more: str, **changes: Any) -> Any:
        for path, ms in zip(files, (1.0, far), strict=True):
            path.unlink(missing_ok=True)
            path.with_name(path.stem + ".samples.jsonl").unlink(missing_ok=True)
            with sides.ResultFile(path) as file:
                wide = {"ci_low_ms": ms / 1.8, "ci_high_ms": ms * 1.8}
                sides.append(file, sides.row(FWD, **wide, **changes), [ms, ms * 1.001] * 10)
        (cell,) = json.loads(lbench("compare", *files, "--json", *more).out)["cells"]
        return cell["verdict"]

    unstable = {"status": "unstable", "reason": "the median is known only to ±80 %"}
    assert verdict() == "SLOWER"
    assert verdict(1.6, **unstable) == "AMBIGUOUS"
    assert verdict(90.0, **unstable) == "SLOWER"
    pair = [sides.write(tmp_path / f"{n}.csv", {FWD: 1.0}, passes=24, seed=i) for i, n in enumerate("ab")]
    rows = noise_floor(*(read_side(path) for path in pair), threshold=0.03, pairs=16)
    write_calibration(tmp_path / "calibration.csv", rows)
    known = ("--calibration", str(tmp_path / "calibration.csv"))
    assert verdict(1.6, *known, **unstable) == "AMBIGUOUS"
    assert verdict(90.0, *known, **unstable) == "SLOWER"


def test_too_few_passes_calibrate_nothing(sides: Any, tmp_path: Path) -> None:
    side = read_side(sides.write(tmp_path / "a.csv", {FWD: 1.0}, passes=3))
    with pytest.raises(LbenchError, match="at least 6 passes"):
        noise_floor(side, side, threshold=0.03, pairs=16)


@pytest.mark.slow
def test_calibrate_measures_this_machine(workspace: Any) -> None:
    suite = workspace.suite(["Good"])
    ran = workspace.run(
        "calibrate", suite, "--pairs", "6", "--out", "x-calibration.csv", "--threshold", "50%"
    )
    assert ran.returncode == 0, ran.stderr
    (row,) = read_calibration(workspace.folder / "x-calibration.csv")
    assert (row.pairs, row.device) == (6, "cpu")
    assert row.pair_noise_percent > 0
    assert "at a threshold of 50 %," in ran.stderr
    refused = workspace.run("calibrate", suite, "--out", "x.csv")
    assert refused.returncode == 2
    assert "does not end with -calibration.csv" in refused.stderr
