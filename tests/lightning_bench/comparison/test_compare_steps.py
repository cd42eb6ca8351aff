"""Times that are rounded to the steps of a timer: equal medians are judged, and one step is no change."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_bench.comparison import rule
from lightning_bench.comparison.sides import read_side
from lightning_bench.record import ResultFile

STEP_MS = 32e-6  # of CUDA's events on an H200
FWD, LONGER = "lightning2/fwd/b1", "lightning2/fwd/b2"
Compare = Callable[[Path, Path], dict[str, Any]]


@pytest.fixture
def compare(lbench: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compare:
    monkeypatch.chdir(tmp_path)

    def compared(base: Path, head: Path) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(lbench("compare", base, head, "--json").out)
        return found

    return compared


def samples(steps: int) -> list[float]:
    """Return samples of a call of so many steps, some of them one more or less, or two."""
    return [round((steps + off) * STEP_MS, 9) for off in [-1, 0, 0, 1, 0, 0, 2, 0, -1, 0] * 3]


def runs(folder: Path, sides: Any, cases: dict[str, int], count: int = 3) -> Path:
    """Write files of a run each, whose median is so many steps in all of them."""
    folder.mkdir()
    for number in range(count):
        with ResultFile(folder / f"{number}.csv") as file:
            for case, steps in cases.items():
                sides.append(file, sides.row(case, run_utc=f"{folder.name} {number}"), samples(steps))
    return folder


def passes(path: Path, sides: Any, steps: int, count: int = 12) -> Path:
    with ResultFile(path) as file:
        for number in range(count):
            row = sides.row(FWD, run_utc=f"{path.name} {number}")
            sides.append(file, row, samples(steps), pair=f"p{number}")
    return path


def test_the_step_of_a_row_is_the_smallest_between_samples_of_its_process(sides: Any, tmp_path: Path) -> None:
    runs(tmp_path / "a", sides, {FWD: 300}, 1)
    with ResultFile(tmp_path / "a" / "0.csv") as file:
        sides.append(file, sides.row(LONGER), [0.5] * 30)
    steps = {run.record.case_id: run.step_ms for run in read_side(tmp_path / "a").runs}
    assert steps == {FWD: pytest.approx(STEP_MS), LONGER: 0.0}


def test_runs_that_all_have_one_median_are_judged(sides: Any, tmp_path: Path, compare: Compare) -> None:
    cases = {FWD: 300, LONGER: 600}
    base, head = runs(tmp_path / "base", sides, cases), runs(tmp_path / "head", sides, cases)
    found = compare(base, head)
    for cell in (*found["cells"], *found["overall"]):
        assert (cell["verdict"], cell["ratio"]) == ("SAME", 1.0)
        assert 0.98 < cell["low"] < 0.999
        assert 1.001 < cell["high"] < 1.02
    assert found["exit_code"] == 0


def test_a_step_that_is_as_large_as_the_threshold_decides_nothing(
    sides: Any, tmp_path: Path, compare: Compare
) -> None:
    base, head = runs(tmp_path / "base", sides, {FWD: 30}), runs(tmp_path / "head", sides, {FWD: 30})
    (cell,) = compare(base, head)["cells"]
    assert cell["verdict"] == "AMBIGUOUS"
    assert 1.03 < cell["high"] < 1.2


@pytest.mark.parametrize(("more", "verdict"), [(0, "AMBIGUOUS"), (1, "AMBIGUOUS"), (4, "SLOWER")])
def test_one_step_more_in_every_pass_is_no_change(
    more: int, verdict: str, sides: Any, tmp_path: Path, compare: Compare
) -> None:
    base = passes(tmp_path / "base.csv", sides, 30)
    (cell,) = compare(base, passes(tmp_path / "head.csv", sides, 30 + more))["cells"]
    assert cell["verdict"] == verdict
    assert cell["paired"]


@pytest.mark.parametrize("count", [2, 3, 12, 60])
@pytest.mark.parametrize("noise", [0.0, 0.1, 1.0])
def test_the_interval_of_rounded_times_has_the_true_ratio(noise: float, count: int) -> None:
    """A call takes any time between two steps; `noise` is that between processes, in steps."""
    rng = np.random.default_rng(3)
    true = rng.uniform(20.0, 40.0, (2, 4000))
    times = np.round(true[..., None] + rng.normal(0.0, noise, (*true.shape, count)))
    ours, theirs = np.log(times)
    shift = rule.unpaired(ours, theirs, (1 / times[0, :, 0], 1 / times[1, :, 0]))
    _, _, (low, high) = rule.decide(shift, 0.03)
    ratio = np.log(true[0] / true[1])
    assert np.mean((low <= ratio) & (ratio <= high)) >= 0.99
    assert np.all(np.isfinite(low))
    if noise == 0.0:  # without the step equal times are known to no bound, or taken to be exact
        _, _, (low, high) = rule.decide(rule.unpaired(ours, theirs), 0.03)
        assert np.mean((low <= ratio) & (ratio <= high) & np.isfinite(low)) < 0.01
