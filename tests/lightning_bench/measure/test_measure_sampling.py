"""Summaries of samples, the interval of the median by simulation, stop rules and trouble."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_bench.measure.device.stream_clock import SampleClock
from lightning_bench.measure.sampling import (
    FEWEST,
    Sampler,
    StopRule,
    contradiction,
    median_interval,
    summarize,
)

RULE = StopRule(ci_percent=1.0, min_samples=20, max_samples=100, sample_limit_s=2.0)


def sampler(samples: list[float], seconds: float = 0.0, rule: StopRule = RULE) -> Sampler:
    filled = Sampler(rule)
    filled.add(samples, seconds)
    return filled


@pytest.mark.parametrize("count", [FEWEST, 7, 12, 20, 51, 200])
@pytest.mark.parametrize("law", ["exponential", "normal"])
def test_the_interval_covers_the_median(law: str, count: int) -> None:
    rng = np.random.default_rng(count)
    draws = (
        rng.exponential(1.0, (2000, count)) if law == "exponential" else rng.normal(5.0, 1.0, (2000, count))
    )
    true = math.log(2) if law == "exponential" else 5.0
    intervals = [median_interval(row) for row in draws.tolist()]
    covered = np.mean([low <= true <= high for low, high in intervals])
    assert covered >= 0.94
    if count >= 51:  # and no wider than it must be
        assert covered <= 0.985


@pytest.mark.parametrize(
    ("count", "low", "high"), [(6, 1, 6), (8, 1, 8), (9, 2, 8), (20, 6, 15), (50, 18, 33), (100, 40, 61)]
)
def test_the_interval_has_the_ranks_of_the_sign_test_tables(count: int, low: int, high: int) -> None:
    samples = [float(i) for i in range(count, 0, -1)]
    assert median_interval(samples) == (low, high)


@settings(derandomize=True)
@given(st.lists(st.floats(1e-3, 1e4), min_size=1, max_size=60))
def test_the_summary_equals_that_of_numpy(samples: list[float]) -> None:
    before = list(samples)
    figures = summarize(samples)
    assert samples == before
    assert figures.median_ms == pytest.approx(np.median(samples))
    assert figures.p20_ms == pytest.approx(np.percentile(samples, 20))
    assert figures.p80_ms == pytest.approx(np.percentile(samples, 80))
    assert figures.mean_ms == pytest.approx(np.mean(samples))
    assert figures.min_ms == np.min(samples)
    assert figures.samples == len(samples)
    assert (figures.ci_low_ms, figures.ci_high_ms) == median_interval(samples)
    assert figures.ci_low_ms <= figures.median_ms <= figures.ci_high_ms


def test_equal_samples_stop_at_the_fewest_allowed() -> None:
    assert not sampler([1.0] * 19).done
    assert sampler([1.0] * 20).done


def test_a_wide_interval_goes_on_to_the_most_samples() -> None:
    spread = [1.0, 2.0] * 50
    assert not sampler(spread[:99]).done
    assert sampler(spread).done


def test_the_interval_decides_between_the_limits() -> None:
    def spread(percent: float) -> list[float]:
        return [1.0 - percent / 100, 1.0, 1.0 + percent / 100] * 10

    assert sampler(spread(0.9)).half_width_percent == pytest.approx(0.9)
    assert sampler(spread(0.9)).done
    assert not sampler(spread(1.1)).done
    loose = StopRule(ci_percent=2.0, min_samples=20, max_samples=100, sample_limit_s=2.0)
    assert sampler(spread(1.1), rule=loose).done


def test_time_ends_sampling_but_never_below_six() -> None:
    spread = [1.0, 2.0] * 10
    assert not sampler(spread, 1.99).done
    assert sampler(spread, 2.0).done
    assert sampler(spread[:6], 100.0).done
    assert not sampler(spread[:5], 100.0).done


def test_six_samples_even_if_fewer_are_asked_for() -> None:
    rule = StopRule(ci_percent=1.0, min_samples=1, max_samples=3, sample_limit_s=2.0)
    assert not sampler([1.0] * 5, rule=rule).done
    assert sampler([1.0] * 6, rule=rule).done


def test_seconds_and_samples_add_up() -> None:
    filled = sampler([1.0, 2.0], 0.5)
    filled.add([3.0], 0.25)
    assert filled.samples == [1.0, 2.0, 3.0]
    assert filled.seconds == 0.75


def test_steady_samples_are_no_trouble() -> None:
    rng = np.random.default_rng(0)
    assert sampler(rng.normal(10, 0.1, 200).tolist()).trouble() is None
    assert sampler([1.0] * 6).trouble() is None
    # A few slow outliers move neither the median nor its interval.
    assert sampler([1.0] * 90 + [50.0] * 10).trouble() is None


def test_wide_samples_are_trouble() -> None:
    trouble = sampler([1.0, 2.0] * 10).trouble()
    assert trouble == "the median is known only to ±33.3 % after 20 samples"
    assert sampler([1.0, 1.04, 1.08] * 10).trouble() is None
    assert sampler([1.0, 1.06, 1.12] * 10).trouble() is not None


@pytest.mark.parametrize("factor", [1.09, 0.92])
def test_drifting_samples_are_trouble(factor: float) -> None:
    trouble = sampler([1.0] * 50 + [factor] * 50).trouble()
    assert trouble is not None
    assert "drifted by" in trouble
    assert f"{100 * abs(factor - 1):.1f} %" in trouble
    assert sampler([1.0] * 50 + [1.0 + (factor - 1) / 2] * 50).trouble() is None


@pytest.mark.parametrize(
    ("samples_ms", "call_ms", "cpu", "cuda"),
    [
        (19.98, 0.018, True, True),
        (20.0, 6.7, False, False),
        (20.0, 6.6, True, True),
        (6.6, 20.0, True, False),  # a caller on a GPU waits for the launch
        (0.04, 0.01, False, False),  # caches explain as much
        (1.0, 1.0, False, False),
    ],
)
def test_samples_and_calls_that_contradict_each_other(
    samples_ms: float, call_ms: float, cpu: bool, cuda: bool
) -> None:
    times, calls = summarize([samples_ms] * 9), summarize([call_ms] * 3)
    assert (contradiction(times, calls, "cpu") is not None) == cpu
    assert (contradiction(times, calls, "cuda") is not None) == cuda


HIGH, LOW = SampleClock(1980.0, False), SampleClock(1200.0, True)


def test_samples_of_a_throttled_gpu_do_not_count() -> None:
    filled = Sampler(RULE)
    assert filled.add([1.0, 9.0, 2.0, 3.0], 0.1, [HIGH, LOW, None, HIGH]) == 3
    assert (filled.samples, filled.mhz) == ([1.0, 2.0, 3.0], [1980.0, None, 1980.0])
    assert (filled.throttled, filled.dropped, filled.seconds) == (1, 1, 0.1)
    assert not filled.changed
    assert filled.median_mhz == 1980.0
    assert filled.median_cycles == pytest.approx(2.0 * 1980e3)


def test_no_clocks_are_no_cycles() -> None:
    filled = sampler([1.0, 2.0])
    assert (filled.median_mhz, filled.median_cycles, filled.throttled) == (None, None, 0)


def test_no_more_samples_are_dropped_than_are_wanted_or_once_the_time_is_up() -> None:
    filled = Sampler(RULE)
    assert filled.add([1.0] * 30, 0.1, [LOW] * 30) == 10
    assert (filled.throttled, filled.dropped) == (30, RULE.min_samples)
    late = Sampler(RULE)
    assert late.add([1.0] * 5, RULE.sample_limit_s, [LOW] * 5) == 5


@pytest.mark.parametrize(("throttled", "unstable"), [(0, False), (19, False), (20, False), (21, True)])
def test_too_many_throttled_samples_are_trouble(throttled: int, unstable: bool) -> None:
    rule = StopRule(ci_percent=1.0, min_samples=100, max_samples=100, sample_limit_s=2.0)
    filled = Sampler(rule)
    filled.add([1.0] * 100, 0.1, [LOW] * throttled + [HIGH] * (100 - throttled))
    reason = "the GPU was throttled in 21 of 100 samples: their SM clock was below 75 % of the highest"
    assert filled.trouble() == (reason if unstable else None)
