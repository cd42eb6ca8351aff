"""What benchmarks/timer_agreement.py calls explained, what it resumes from, and what it refuses."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests.support.paths import ROOT
from tests.support.patience import PATIENCE_S

# Bounds of a ratio that could not be 1.
EXACT = (1.05, 1.5)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("triton")  # of which the kernels are made
    monkeypatch.syspath_prepend(ROOT / "benchmarks")  # as where it runs as a script
    return importlib.import_module("timer_agreement")


def test_a_ratio_that_agrees_needs_no_explanation(script: ModuleType) -> None:
    assert script.explanation(1.0099, [script.Effect("anything", 0.5)], (1.0, 1.1)) == ""
    assert script.explanation(0.9901, [], (0.98, 1.0)) == ""


def test_the_empty_pair_of_events_explains_a_short_call(script: ModuleType) -> None:
    # 20 us by CUPTI, 24 us by events, of which a pair takes 4 us.
    ours = script.Median([0.024])
    effects = script.cupti_effects(ours, traced_ms=0.024, empty_ms=0.004, gaps_ms=0.0, activities=1)
    text = script.explanation(0.024 / 0.020, effects, EXACT)
    assert text == "an empty pair of events takes 4.00 us: 1.0000 without"
    assert script.explained(text)


def test_two_effects_are_named_where_one_is_not_enough(script: ModuleType) -> None:
    # Traced, the call takes 30 us instead of 26, because of gaps; a pair of events takes 4 us of both.
    ours = script.Median([0.026])
    effects = script.cupti_effects(ours, traced_ms=0.030, empty_ms=0.004, gaps_ms=0.005, activities=3)
    text = script.explanation(0.026 / 0.02545, effects, EXACT)
    assert "empty pair" in text
    assert "3 activities with 5.00 us between them" in text
    assert script.explained(text)


def test_what_no_measured_effect_accounts_for_is_not_explained(script: ModuleType) -> None:
    ours, peer = script.Median([1.0], 1900.0), script.Median([0.9], 1905.0)
    effects = script.nvbench_effects(ours, ours, peer, empty_ms=0.004, peer_empty_ms=0.004)
    text = script.explanation(1.0 / 0.9, effects, EXACT)
    assert not script.explained(text)
    assert "1900 MHz" in text


def test_a_slower_clock_explains_a_longer_time(script: ModuleType) -> None:
    ours, peer = script.Median([1.1], 1800.0), script.Median([1.0], 1980.0)
    effects = script.nvbench_effects(ours, ours, peer, empty_ms=0.004, peer_empty_ms=0.004)
    assert script.explanation(1.1, effects, EXACT) == (
        "the SM clock was 1800 MHz, in nvbench 1980 MHz: 1.0000 without"
    )


def test_medians_that_are_known_too_little_are_not_resolved(script: ModuleType) -> None:
    ours, peer = (
        script.Median([0.98, 1.0, 1.03, 1.04, 1.05, 1.1]),
        script.Median([0.97, 1.0, 1.0, 1.0, 1.0, 1.02]),
    )
    bounds = script.ratio_bounds(ours, peer)
    assert bounds == pytest.approx((0.98 / 1.02, 1.1 / 0.97))
    assert script.explanation(1.035, [], bounds) == (
        "not resolved: the intervals of the medians allow 0.9608 to 1.1340"
    )


def test_columns_of_a_timer_without_samples_are_blank(script: ModuleType) -> None:
    blank, full = script.Median([]).columns("nvbench"), script.Median([2.0] * 9).columns("nvbench")
    assert blank.keys() == full.keys()
    assert blank["nvbench_median_ms"] == ""
    assert full["nvbench_median_ms"] == "2.000000"


def test_rows_are_read_back_by_cell_and_others_are_not(script: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    assert list(script.recorded(out)) == []
    script.write_rows(
        out,
        [
            {"provider": name, "direction": "fwd", "seq_len": n}
            for name, n in (("flash2", 512), ("flash2", 513))
        ],
    )
    assert [key for key, _ in script.recorded(out)] == [("flash2", "fwd", "512")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv"]


def test_cells_are_three_providers_two_directions_and_three_lengths(script: ModuleType) -> None:
    assert len({cell.key for cell in script.CELLS}) == 18


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="would measure")
def test_without_its_timers_it_measures_nothing_and_names_all_that_is_missing(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "timer_agreement.py"), str(tmp_path / "a.csv")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert ran.returncode == 2
    for missing in ("a CUDA device", "cuda-bench", "lightning-bench[cupti]"):
        assert missing in ran.stdout
    assert not list(tmp_path.iterdir())
