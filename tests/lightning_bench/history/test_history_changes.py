"""Change points against ruptures, false changes in series without any, and the magnitude that counts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import history_simulation as simulation
from lightning_bench.comparison.noise import Calibration, write_calibration
from lightning_bench.history import changes
from lightning_bench.history.changes import change_points, clipped, partition, series_noise

FWD = "lightning2/fwd/b1"
LEAST = float(np.log1p(2 * simulation.NOISE))


def total(scaled: Any, found: list[int]) -> float:
    """Return what a partition costs: squares about the means of the levels, and the penalty."""
    parts = np.split(scaled, found)
    return float(sum(np.square(part - part.mean()).sum() for part in parts)) + 6 * len(found) * np.log(
        len(scaled)
    )


@pytest.mark.parametrize("count", [6, 13, 40])
def test_the_partition_is_that_of_ruptures(count: int) -> None:
    ruptures = pytest.importorskip("ruptures", reason="the test extra is not installed")
    rng = np.random.default_rng(count)
    cut = 0
    for _ in range(40):
        levels = np.repeat(rng.normal(0, 3, 4), -(-count // 4))[:count]
        scaled = levels + rng.normal(0, 1, count)
        ours = partition(scaled)
        fitted = ruptures.Pelt(model="l2", min_size=changes.FEWEST, jump=1).fit(scaled[:, None])
        theirs = fitted.predict(pen=6 * np.log(count))[:-1]
        assert total(scaled, ours) <= total(scaled, theirs) + 1e-9
        assert ours == theirs or total(scaled, ours) < total(scaled, theirs) - 1e-9
        cut += len(ours)
    assert cut > 10


def rate(draw: simulation.Draw, count: int, *, days: bool = False, series: int = 200) -> float:
    rng = np.random.default_rng(4)
    drawn = [draw(rng, count) for _ in range(series)]
    return float(np.mean([bool(change_points(simulation.by_day(x) if days else x, LEAST)) for x in drawn]))


@pytest.mark.parametrize(
    ("draw", "most"),
    [
        (simulation.normal, 0.02),
        (simulation.heavy_tails, 0.03),
        (simulation.autocorrelated, 0.10),
        (simulation.very_autocorrelated, 0.15),
        (simulation.two_levels, 0.03),
        (simulation.two_levels_rare, 0.08),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_series_without_a_change_rarely_have_one(draw: simulation.Draw, most: float) -> None:
    for count in (12, 20, 40):
        assert rate(draw, count) <= most, count


def test_points_that_share_the_level_of_their_day_are_no_changes() -> None:
    assert rate(simulation.shared_days, 80, days=True) <= 0.02
    assert rate(simulation.shared_days, 80) > 0.1, "as points of their own they would be"


def test_a_step_of_five_deviations_is_found_with_three_points_after_it() -> None:
    rng = np.random.default_rng(5)
    found = 0
    for _ in range(100):
        series = rng.normal(0, simulation.NOISE, 20) + 5 * simulation.NOISE * (np.arange(20) >= 17)
        found += any(abs(one - 17) <= 1 for one in change_points(series, LEAST))
    assert found >= 90


def test_the_noise_is_the_larger_of_both_estimates() -> None:
    rng = np.random.default_rng(6)
    independent = rng.normal(0, 0.01, 400)
    assert series_noise(independent) == pytest.approx(0.01, rel=0.25)
    two = rng.normal(0, 0.0001, 400) + 0.02 * (rng.random(400) < 0.2)
    neighbours = float(np.median(np.abs(np.diff(two))))
    assert series_noise(two) > 10 * neighbours
    step = independent + np.repeat([0.0, 0.5], 200)
    assert series_noise(step) == pytest.approx(series_noise(independent), rel=0.1)
    assert np.ptp(clipped(np.r_[np.zeros(5), 9.0, np.zeros(5)], 0.01)) == pytest.approx(0.04)


def test_levels_nearer_than_the_least_magnitude_are_one() -> None:
    rng = np.random.default_rng(7)
    series = rng.normal(0, 0.002, 30) + np.repeat([0.0, 0.015, 0.1], 10)
    assert change_points(series) == [10, 20]
    assert change_points(series, 0.02) == [20]
    assert change_points(series, 0.2) == []


def write(sides: Any, folder: Path, ms: list[float], stamps: list[str]) -> None:
    with sides.ResultFile(folder / "rows.csv") as file:
        for number, (figure, stamp) in enumerate(zip(ms, stamps, strict=True)):
            record = sides.row(FWD, harness_commit=f"c{number:02d}", time_utc=stamp)
            sides.append(file, record, [figure] * 10)


def calibration(noise_percent: float) -> Calibration:
    return Calibration(
        case_id=FWD,
        machine_id="abc",
        device="cuda",
        pairs=24,
        df=23,
        pair_df=13,
        pair_noise_percent=noise_percent,
        run_noise_percent=noise_percent,
        resolution_pairs=16,
        resolution_percent=1,
        resolution_two_runs_percent=1,
        threshold_percent=3,
        false_alarm_rate=0,
        sweep_false_alarm_rate=0,
        provider_version="",
        device_name="",
        harness_commit="",
        time_utc="",
    )


def told(lbench: Callable[..., Any], folder: Path, *more: str) -> tuple[list[str], float, str]:
    ran = lbench("history", folder, "--json", *more)
    assert ran.code == 0, ran.err
    data = json.loads(ran.out)
    labels = [point["label"] for point in data["points"] if point["change"] is not None]
    return labels, data["least_percent"], ran.err


def test_the_least_magnitude_is_twice_the_calibrated_noise_or_as_given(
    sides: Any, lbench: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stamps = [f"2026-01-{day:02d}T00:00:00+00:00" for day in range(1, 17)]
    write(sides, tmp_path, [1.0] * 8 + [1.03] * 8, stamps)
    labels, least, err = told(lbench, tmp_path)
    assert (labels, least) == (["c08"], pytest.approx(2.0, abs=0.01)), "assumed: 1 %"
    assert "16 points, 1 change of level by 2 % or more" in err
    write_calibration(tmp_path / "x-calibration.csv", [calibration(2.0)])
    assert told(lbench, tmp_path)[:2] == ([], pytest.approx(4.0))
    assert told(lbench, tmp_path, "--least", "1%")[:2] == (["c08"], pytest.approx(1.0))
    write_calibration(tmp_path / "x-calibration.csv", [calibration(0.5)])
    assert told(lbench, tmp_path)[:2] == (["c08"], pytest.approx(1.0))
    refused = lbench("history", tmp_path, "--least", "much")
    assert refused.code == 2
    assert "--least" in refused.err


def test_commits_of_one_day_share_its_level_and_count_once(
    sides: Any, lbench: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four commits a day, days that differ by up to 8 %: by run they would be levels."""
    monkeypatch.chdir(tmp_path)
    levels = np.repeat([1.0, 1.08, 0.99, 1.07, 1.0, 1.06, 1.01, 1.08], 4)
    jitter = np.random.default_rng(8).normal(0, 0.001, len(levels))
    stamps = [f"2026-01-{1 + n // 4:02d}T0{n % 4}:00:00+00:00" for n in range(len(levels))]
    write(sides, tmp_path, list(levels * np.exp(jitter)), stamps)
    assert told(lbench, tmp_path)[0] == []
    assert told(lbench, tmp_path, "--by", "day")[0] == []
    assert told(lbench, tmp_path, "--by", "run")[0] != []
    days = json.loads(lbench("history", tmp_path, "--json", "--by", "day").out)["points"]
    assert [point["rows"] for point in days] == [4] * 8
    assert days[1]["label"] == "2026-01-02"


def test_points_of_few_days_are_told_from_noise_by_none(
    sides: Any, lbench: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    two = [f"2026-01-{1 + n // 6:02d}T0{n % 6}:00:00+00:00" for n in range(12)]
    write(sides, tmp_path, [1.0] * 6 + [1.2] * 6, two)
    labels, _, err = told(lbench, tmp_path)
    assert labels == []
    assert "12 points of 2 days, whose points share its level: a change needs three on each side" in err
    (tmp_path / "rows.csv").unlink()
    write(sides, tmp_path, [1.0] * 6 + [1.2] * 6, [f"2026-01-01T{n:02d}:00:00+00:00" for n in range(12)])
    assert told(lbench, tmp_path)[0] == ["c06"], "of one day, no day differs"


def test_memory_changes_by_half_a_per_cent(
    sides: Any, lbench: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with sides.ResultFile(tmp_path / "rows.csv") as file:
        for number, mib in enumerate([100.0] * 6 + [101.0] * 6):
            stamp = f"2026-01-{number + 1:02d}T00:00:00+00:00"
            file.append(
                sides.row(
                    FWD, metric="memory", extra_mib=mib, harness_commit=f"c{number:02d}", time_utc=stamp
                )
            )
    assert told(lbench, tmp_path, "--figure", "extra_mib")[:2] == (["c06"], pytest.approx(0.5))
