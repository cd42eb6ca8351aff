"""The columns of timer-agreement.csv: what each timer measured, and what accounts for a difference.

Every size that an explanation names is a column, so that a reader can compute it again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lightning_bench.measure.device.cupti_timer import TracedCall
from lightning_bench.measure.device.cupti_trace import LaunchSize
from lightning_bench.measure.device.stream_clock import SampleClock
from lightning_bench.measure.sampling import Sampler, StopRule, median_interval

AGREEMENT_PERCENT = 1.0
# NVIDIA documents "around 0.5 microseconds" (cudaEventElapsedTime); on an H200 times are multiples of 32 ns.
RESOLUTION_US = 0.5
NOT_EXPLAINED = "not explained: "
_NO_LIMIT = 10**9


def new_sampler() -> Sampler:
    """Return a sampler that drops every throttled sample, as nvbench does."""
    return Sampler(StopRule(0.0, _NO_LIMIT, _NO_LIMIT, math.inf))


def sampler_of(ms: list[float], mhz: list[float], dropped: int) -> Sampler:
    """Return a sampler with what a timer kept, and the number of samples that it dropped itself."""
    kept = new_sampler()
    # Without its own clocks it has kept all.
    kept.add(ms, 0.0, [SampleClock(one, False) for one in mhz])
    kept.dropped = dropped
    return kept


@dataclass(frozen=True)
class Traced:
    """Calls that CUPTI traced and that were not throttled: their spans, and what else was seen of each."""

    spans: Sampler
    calls: list[TracedCall]

    @classmethod
    def of(cls, calls: Sequence[TracedCall], clocks: Sequence[SampleClock | None]) -> Traced:
        """Keep what was not throttled."""
        spans = new_sampler()
        spans.add([call.span_ms for call in calls], 0.0, clocks)
        whole = [c for c, clock in zip(calls, clocks, strict=True) if clock is None or not clock.throttled]
        return cls(spans, whole)

    def median(self, name: str) -> float:
        """Return the median of a field of the calls."""
        return float(np.median([getattr(call, name) for call in self.calls]))

    @property
    def gaps_us(self) -> float:
        """The median time of a call in which nothing ran, µs."""
        return 1e3 * float(np.median([call.span_ms - call.busy_ms for call in self.calls]))


@dataclass(frozen=True)
class EmptyKernel:
    """What all three say of a kernel that does nothing, µs; `traced_us` is by events while CUPTI traces.

    `pair_us` is by the events of `lbench` without a kernel.
    """

    pair_us: float
    lbench_us: float
    nvbench_us: float
    traced_us: float
    cupti_us: float

    @property
    def overhead_us(self) -> float:
        """What events cost around it: from the first event to its start, and from its end."""
        return self.traced_us - self.cupti_us

    def columns(self) -> dict[str, object]:
        """Return its columns."""
        return {
            "empty_us": f"{self.pair_us:.3f}",
            "empty_kernel_lbench_us": f"{self.lbench_us:.3f}",
            "empty_kernel_nvbench_us": f"{self.nvbench_us:.3f}",
            "empty_kernel_events_us": f"{self.traced_us:.3f}",
            "empty_kernel_cupti_us": f"{self.cupti_us:.3f}",
        }


def launches_of(call: TracedCall) -> str:
    """Return how large the launches are with which a call begins and ends."""
    ends = (call.first,) if call.activities == 1 else (call.first, call.last)
    return " … ".join("fill or copy" if size is None else _size(size) for size in ends)


def _size(size: LaunchSize) -> str:
    grid, block = ("x".join(map(str, dims)) for dims in (size.grid, size.block))
    return f"{grid} programs of {block} threads and {size.shared_bytes} bytes"


def launch_columns(calls: Sequence[TracedCall], overhead_us: float) -> dict[str, object]:
    """Return the launches with which calls begin and end, and what events cost around empty ones as large."""
    return {
        "launches": launches_of(calls[0]) if calls else "",
        "kernel_overhead_us": f"{overhead_us:+.3f}",
    }


def median_ms(sampler: Sampler) -> float:
    """Return the median of the samples in ms; nan if there are none."""
    return float(np.median(sampler.samples)) if sampler.samples else math.nan


def timer_columns(name: str, sampler: Sampler) -> dict[str, object]:
    """Return what a timer measured, with its name before each column; blank where there is no sample."""
    low, high = median_interval(sampler.samples) if sampler.samples else (None, None)
    middle = median_ms(sampler) if sampler.samples else None
    return {
        f"{name}_median_ms": _shown(middle, ".6f"),
        f"{name}_ci_low_ms": _shown(low, ".6f"),
        f"{name}_ci_high_ms": _shown(high, ".6f"),
        f"{name}_samples": len(sampler.samples),
        f"{name}_dropped": sampler.dropped,
        f"{name}_mhz": _shown(sampler.median_mhz, ".1f"),
        f"{name}_median_cycles": _shown(sampler.median_cycles, ".0f"),
    }


def agrees(ratio: float) -> bool:
    """Whether a ratio is within the agreement that is asked for; nan is not."""
    return abs(ratio - 1) <= AGREEMENT_PERCENT / 100


def cycles_ratio(ours: Sampler, peer: Sampler) -> float | None:
    """Return the ratio of the median cycles; None if a clock is not known."""
    if ours.median_cycles is None or peer.median_cycles is None:
        return None
    return ours.median_cycles / peer.median_cycles


def nvbench_columns(ours: Sampler, peer: Sampler) -> dict[str, object]:
    """Return ratio and difference of the medians, the ratio of cycles, and what accounts for them."""
    if nothing := _nothing(lbench=ours, nvbench=peer):
        return dict.fromkeys(("nvbench_ratio", "nvbench_difference_us", "nvbench_cycles_ratio"), "") | {
            "nvbench_explained_by": nothing
        }
    difference_us = 1e3 * (median_ms(ours) - median_ms(peer))
    return {
        "nvbench_ratio": f"{median_ms(ours) / median_ms(peer):.4f}",
        "nvbench_difference_us": f"{difference_us:+.3f}",
        "nvbench_cycles_ratio": _shown(cycles_ratio(ours, peer), ".4f"),
        "nvbench_explained_by": nvbench_explanation(ours, peer),
    }


def nvbench_explanation(ours: Sampler, peer: Sampler) -> str:
    """Return what accounts for a difference to nvbench, "" if the ratio agrees.

    That is the resolution of events; or the SM clock, if the ratio of cycles agrees; or that the intervals
    of the medians are too wide to tell.
    """
    ratio, difference_us = median_ms(ours) / median_ms(peer), 1e3 * (median_ms(ours) - median_ms(peer))
    if agrees(ratio):
        return ""
    if abs(difference_us) <= RESOLUTION_US:
        return (
            f"a difference of {difference_us:+.2f} us is within the resolution of events, {RESOLUTION_US} us"
        )
    in_cycles = cycles_ratio(ours, peer)
    if in_cycles is None:
        clock = "the SM clock is not known"
    else:
        clock = (
            f"in cycles the ratio is {in_cycles:.4f}: the SM clock was {ours.median_mhz:.0f} MHz by lbench, "
            f"{peer.median_mhz:.0f} MHz by nvbench"
        )
        if agrees(in_cycles):
            return clock
    (low, high), (peer_low, peer_high) = median_interval(ours.samples), median_interval(peer.samples)
    least, most = low / peer_high, high / peer_low
    if least <= 1 + AGREEMENT_PERCENT / 100 and most >= 1 - AGREEMENT_PERCENT / 100:
        return f"not resolved: the intervals of the medians allow ratios from {least:.4f} to {most:.4f}"
    return NOT_EXPLAINED + clock


@dataclass(frozen=True)
class CuptiDifference:
    """The time by `lbench` less CUPTI's span, and its parts, µs: it is their sum.

    `overhead_us` is what events cost around empty kernels of launches as large. `untraced_us` is by how
    much longer calls take, by events, that CUPTI does not trace: tracing makes gaps longer, and the SM clock
    may be another. The rest is `remainder_us`, `remainder_percent` of the span.
    """

    overhead_us: float
    untraced_us: float
    remainder_us: float
    remainder_percent: float

    @classmethod
    def of(cls, ours: Sampler, traced: Traced, overhead_us: float) -> CuptiDifference:
        """Return the difference of two timers that have samples."""
        span_ms, events_ms = median_ms(traced.spans), traced.median("events_ms")
        remainder_us = 1e3 * (events_ms - span_ms) - overhead_us
        return cls(
            overhead_us, 1e3 * (median_ms(ours) - events_ms), remainder_us, 0.1 * remainder_us / span_ms
        )

    @property
    def us(self) -> float:
        """The whole difference."""
        return self.overhead_us + self.untraced_us + self.remainder_us


def cupti_columns(ours: Sampler, traced: Traced, overhead_us: float) -> dict[str, object]:
    """Return ratio and difference of the medians, the parts of the difference, and what accounts for it."""
    names = ("cupti_ratio", "cupti_difference_us", "cupti_cycles_ratio", "cupti_events_ms", "untraced_us")
    names += ("cupti_remainder_us", "cupti_busy_ms", "cupti_gaps_us", "cupti_activities")
    if nothing := _nothing(lbench=ours, CUPTI=traced.spans):
        return dict.fromkeys(names, "") | {"cupti_explained_by": nothing}
    difference = CuptiDifference.of(ours, traced, overhead_us)
    values = (
        f"{median_ms(ours) / median_ms(traced.spans):.4f}",
        f"{difference.us:+.3f}",
        _shown(cycles_ratio(ours, traced.spans), ".4f"),
        f"{traced.median('events_ms'):.6f}",
        f"{difference.untraced_us:+.3f}",
        f"{difference.remainder_us:+.3f}",
        f"{traced.median('busy_ms'):.6f}",
        f"{traced.gaps_us:.3f}",
        f"{traced.median('activities'):.0f}",
    )
    return dict(zip(names, values, strict=True)) | {
        "cupti_explained_by": cupti_explanation(ours, traced, overhead_us)
    }


def cupti_explanation(ours: Sampler, traced: Traced, overhead_us: float) -> str:
    """Return the parts of a difference to CUPTI, "" if the ratio agrees.

    They account for it if the remainder is at most 1 % of the span, or within the resolution of events.
    """
    if agrees(median_ms(ours) / median_ms(traced.spans)):
        return ""
    difference = CuptiDifference.of(ours, traced, overhead_us)
    parts = (
        f"of {difference.us:+.2f} us, events around empty kernels of this size are {overhead_us:+.2f} us, "
        f"and the calls of "
        f"lbench, which are not traced, {difference.untraced_us:+.2f} us{_clocks(ours, traced.spans)}; "
        f"{difference.remainder_us:+.2f} us ({difference.remainder_percent:+.2f} %) remain"
    )
    if abs(difference.remainder_percent) <= AGREEMENT_PERCENT:
        return parts
    if abs(difference.remainder_us) <= RESOLUTION_US:
        return f"{parts}, within the resolution of events, {RESOLUTION_US} us"
    return NOT_EXPLAINED + parts


def explained(text: str) -> bool:
    """Whether an explanation is one."""
    return not text.startswith(NOT_EXPLAINED)


def _clocks(ours: Sampler, traced: Sampler) -> str:
    if ours.median_mhz is None or traced.median_mhz is None:
        return ""
    return f" (at {ours.median_mhz:.0f} MHz; those that are traced, {traced.median_mhz:.0f} MHz)"


def _nothing(**samplers: Sampler) -> str:
    """Return which timer kept no sample, "" if all did."""
    for name, sampler in samplers.items():
        if not sampler.samples:
            return f"{NOT_EXPLAINED}{name} kept no sample: all {sampler.dropped} were throttled"
    return ""


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
