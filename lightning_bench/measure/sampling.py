"""When to stop sampling, and which figures the samples give. Pure functions and one small accumulator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import bdtr  # scipy.stats has a quantile, and takes half a second to import

from lightning_bench.case import Device
from lightning_bench.measure.device.stream_clock import THROTTLED_SHARE, SampleClock

if TYPE_CHECKING:
    from lightning_bench.suite import Limits

CONFIDENCE = 0.95
# Fewer samples than this cannot bound the median at 95 %: 1 − 2·0.5⁶ = 0.969.
FEWEST = 6
# Warm-up may take this share of the sampling limit.
WARM_UP_SHARE = 0.25
# Above these a figure is given but called unstable.
SPREAD_LIMIT_PERCENT = 5.0
DRIFT_LIMIT_PERCENT = 5.0
THROTTLED_LIMIT_PERCENT = 20.0
# Caches and what is done between samples explain less than this.
_CALLS_RATIO = 3.0
_CALLS_APART_MS = 0.05


@dataclass(frozen=True)
class TimeFigures:
    """Summary of samples in ms: median, 20th and 80th percentile, minimum, and the 95 % interval."""

    median_ms: float
    p20_ms: float
    p80_ms: float
    min_ms: float
    mean_ms: float
    ci_low_ms: float
    ci_high_ms: float
    samples: int


@lru_cache(maxsize=4096)
def _interval_ranks(count: int) -> tuple[int, int]:
    """Return the ranks (from 0) of the order statistics that bound the median with 95 % confidence."""
    cumulative = bdtr(np.arange(count + 1), count, 0.5)
    below = int(np.searchsorted(cumulative, (1 - CONFIDENCE) / 2))
    low = max(0, below - 1)
    return low, count - 1 - low


def median_interval(samples: list[float]) -> tuple[float, float]:
    """Return the distribution-free 95 % confidence interval of the median, by order statistics (binomial)."""
    ordered = sorted(samples)
    low, high = _interval_ranks(len(ordered))
    return ordered[low], ordered[high]


def summarize(samples: list[float]) -> TimeFigures:
    """Return the figures of a row. `samples`, in ms, must not be empty."""
    p20, median, p80 = np.percentile(samples, [20, 50, 80])
    low, high = median_interval(samples)
    return TimeFigures(
        median_ms=float(median),
        p20_ms=float(p20),
        p80_ms=float(p80),
        min_ms=min(samples),
        mean_ms=float(np.mean(samples)),
        ci_low_ms=low,
        ci_high_ms=high,
        samples=len(samples),
    )


def contradiction(times: TimeFigures, calls: TimeFigures, device: Device) -> str | None:
    """Return why samples and calls that a caller waits for cannot both be times of one thing, or None.

    On a CPU both time the same call, apart from caches. On a GPU a caller also waits for the launch, and
    finds its inputs in the L2.
    """
    ratio = times.median_ms / calls.median_ms
    apart = abs(times.median_ms - calls.median_ms) > _CALLS_APART_MS
    too_long = ratio < 1 / _CALLS_RATIO and device == "cpu"
    if apart and (ratio > _CALLS_RATIO or too_long):
        return (
            f"its samples took {times.median_ms:.3g} ms and calls timed one by one {calls.median_ms:.3g} ms: "
            "both cannot be true"
        )
    return None


def _apart(first: tuple[float, float], second: tuple[float, float]) -> bool:
    """Whether two intervals have nothing in common."""
    return first[1] < second[0] or second[1] < first[0]


@dataclass(frozen=True)
class StopRule:
    """Stop once the interval of the median is within ±`ci_percent`, or at the time or sample limit."""

    ci_percent: float
    min_samples: int
    max_samples: int
    sample_limit_s: float

    @classmethod
    def of(cls, limits: Limits) -> StopRule:
        """Return the rule of a suite's limits."""
        return cls(limits.ci_percent, limits.min_samples, limits.max_samples, limits.sample_limit_s)

    @property
    def warm_up_limit_s(self) -> float:
        """The most that warming up may take."""
        return WARM_UP_SHARE * self.sample_limit_s


@dataclass
class Sampler:
    """The samples of one case, and whether they are enough.

    Samples of a GPU that was throttled are dropped: as many as the rule wants samples at least, and none once
    the time is up, so that sampling ends. `throttled` counts all of them, `mhz` are the clocks of the others,
    None where a clock is not known.
    """

    rule: StopRule
    samples: list[float] = field(default_factory=list)
    mhz: list[float | None] = field(default_factory=list)
    throttled: int = 0
    dropped: int = 0
    seconds: float = 0.0
    total_ms: float = 0.0

    def add(self, samples: list[float], seconds: float, clocks: Sequence[SampleClock | None] = ()) -> int:
        """Add samples in ms, the wall time that taking them cost, and their clocks. Return how many count."""
        self.seconds += seconds
        kept = 0
        for ms, clock in zip(samples, clocks or [None] * len(samples), strict=True):
            if clock is not None and clock.throttled:
                self.throttled += 1
                if self.dropped < self.rule.min_samples and self.seconds < self.rule.sample_limit_s:
                    self.dropped += 1
                    continue
            kept += 1
            self.samples.append(ms)
            self.mhz.append(None if clock is None else clock.mhz)
            self.total_ms += ms
        return kept

    @property
    def median_ms(self) -> float:
        """The median of the samples, of which there must be one."""
        return float(np.median(self.samples))

    @property
    def median_mhz(self) -> float | None:
        """The median clock of the samples; None if none is known."""
        known = [mhz for mhz in self.mhz if mhz is not None]
        return float(np.median(known)) if known else None

    @property
    def median_cycles(self) -> float | None:
        """The median of time times clock; None if no clock is known."""
        cycles = [1e3 * ms * mhz for ms, mhz in zip(self.samples, self.mhz, strict=True) if mhz is not None]
        return float(np.median(cycles)) if cycles else None

    @property
    def half_width_percent(self) -> float:
        """Half the interval of the median, in percent of the median."""
        low, high = median_interval(self.samples)
        return 50.0 * (high - low) / self.median_ms

    @property
    def changed(self) -> bool:
        """Whether the samples are not those that were taken."""
        return not math.isclose(math.fsum(self.samples), self.total_ms, rel_tol=1e-9)

    @property
    def done(self) -> bool:
        """Whether the samples are enough, or a limit is reached."""
        count = len(self.samples)
        if count < FEWEST:
            return False
        if count >= self.rule.max_samples or self.seconds >= self.rule.sample_limit_s:
            return True
        return count >= self.rule.min_samples and self.half_width_percent <= self.rule.ci_percent

    def trouble(self) -> str | None:
        """Return why the figures are unstable, or None.

        The GPU was throttled too often, the interval is wide, or the medians of the halves differ.
        """
        taken = len(self.samples) + self.dropped
        if 100.0 * self.throttled > THROTTLED_LIMIT_PERCENT * taken:
            return (
                f"the GPU was throttled in {self.throttled} of {taken} samples: their SM clock was below "
                f"{100 * THROTTLED_SHARE:.0f} % of the highest"
            )
        half_width = self.half_width_percent
        if half_width > SPREAD_LIMIT_PERCENT:
            return f"the median is known only to ±{half_width:.1f} % after {len(self.samples)} samples"
        half = len(self.samples) // 2
        if half >= FEWEST:
            early, late = self.samples[:half], self.samples[half:]
            first, second = float(np.median(early)), float(np.median(late))
            drift = 100.0 * abs(second - first) / first
            if drift > DRIFT_LIMIT_PERCENT and _apart(median_interval(early), median_interval(late)):
                return f"the median drifted by {drift:.1f} % between the halves of the samples"
        return None
