"""One call, three timers: `lbench`'s events, NVIDIA nvbench's cold measurement, and CUPTI's records.

Run on an otherwise idle GPU, in the repository root, with cuda-bench and cupti-python installed:

    python benchmarks/timer_agreement.py results/h200/timer-agreement.csv

In one process and on one stream, each cell (provider, direction, seq_len) is measured four times: by
``CudaTimer`` until the rule of a sweep stops it; by nvbench (package cuda-bench: blocking kernel, L2 flush,
events of its own) with as many samples; by ``CuptiTimer`` under the sweep's rule; and by ``CudaTimer`` again.
``lbench_median_ms`` is the median of the first and the last. Where a ratio is more than 1 % from 1,
``*_explained_by`` names measured differences that account for it, and the ratio without them. The columns are
in results/README.md.

A row is written as soon as it is measured. The same command measures the cells that the CSV does not have
from this kind of GPU, these versions and kernels, and replaces rows of others.

Exit codes: 0, every ratio is within 1 % or explained; 1, one is neither; 2, something is missing, and nothing
was measured; 4, the time limit came first: run it again.
"""

from __future__ import annotations

import argparse
import csv
import gc
import itertools
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nvbench_cold import TIMEOUT_S, Nvbench
from rows import write_rows

from lightning_bench.case import Direction, Shape
from lightning_bench.errors import ExitCode, UsageError
from lightning_bench.machine import harness_commit
from lightning_bench.measure.calls import direction_call
from lightning_bench.measure.device.clocks import make_clocks, summarize_clocks
from lightning_bench.measure.device.cupti_timer import CuptiTimer
from lightning_bench.measure.device.cupti_trace import load_cupti
from lightning_bench.measure.device.timer import CudaTimer, TimedCall, Timer
from lightning_bench.measure.inputs import InputSet
from lightning_bench.measure.rounds import Task, sample_rounds, warm_up
from lightning_bench.measure.sampling import StopRule, median_interval
from lightning_bench.providers import get_provider
from lightning_bench.suite import Limits

PROVIDERS = ("lightning2", "sdpa-cudnn", "flash2")
DIRECTIONS: tuple[Direction, ...] = ("fwd", "bwd")
SIZES = (512, 8192, 32768)
AGREEMENT_PERCENT = 1.0
# What a suite has that sets no limits: a sweep's own rule.
LIMITS = Limits()
RULE = StopRule(LIMITS.ci_percent, LIMITS.min_samples, LIMITS.max_samples, LIMITS.sample_limit_s)
NVBENCH_EMPTY_SAMPLES = 300  # as many as `CudaTimer.empty_us` takes
PEERS = ("nvbench", "cupti")
NOTHING = -1  # the cell in which nvbench times a call that does nothing


@dataclass(frozen=True)
class Cell:
    """What is timed; b4 h32 d128 bf16."""

    provider: str
    direction: Direction
    seq_len: int

    @property
    def key(self) -> tuple[str, str, str]:
        """The columns that name it, as a CSV has them."""
        return self.provider, self.direction, str(self.seq_len)


CELLS = [Cell(*cell) for cell in itertools.product(PROVIDERS, DIRECTIONS, SIZES)]


@dataclass(frozen=True)
class Effect:
    """A measured difference between two timers; the ratio times `factor` is the ratio without it."""

    text: str
    factor: float


@dataclass(frozen=True)
class Median:
    """A timer's samples of a cell in ms."""

    samples: list[float]
    sm_clock_mhz: float | None = None

    @property
    def ms(self) -> float:
        """The median."""
        return float(np.median(self.samples))

    def columns(self, name: str) -> dict[str, object]:
        """Median, interval and number, with the timer's name before each."""
        if not self.samples:
            return dict.fromkeys((f"{name}_{c}" for c in ("median_ms", "ci_low_ms", "ci_high_ms")), "") | {
                f"{name}_samples": 0
            }
        low, high = median_interval(self.samples)
        return {
            f"{name}_median_ms": f"{self.ms:.6f}",
            f"{name}_ci_low_ms": f"{low:.6f}",
            f"{name}_ci_high_ms": f"{high:.6f}",
            f"{name}_samples": len(self.samples),
        }


def agrees(ratio: float) -> bool:
    """Whether a ratio is within the agreement that is asked for."""
    return abs(ratio - 1) <= AGREEMENT_PERCENT / 100


def ratio_bounds(ours: Median, peer: Median) -> tuple[float, float]:
    """Return the smallest and the largest ratio of medians within their 95 % intervals."""
    (low, high), (peer_low, peer_high) = median_interval(ours.samples), median_interval(peer.samples)
    return low / peer_high, high / peer_low


def explanation(ratio: float, effects: Sequence[Effect], bounds: tuple[float, float]) -> str:
    """Return the fewest effects that account for the ratio, and the ratio without them; "" if it agrees.

    If no effects do, a ratio that may agree within its `bounds` is explained by them.
    """
    if agrees(ratio):
        return ""
    for count in range(1, len(effects) + 1):
        for chosen in itertools.combinations(effects, count):
            left = ratio * math.prod(effect.factor for effect in chosen)
            if agrees(left):
                return f"{'; '.join(effect.text for effect in chosen)}: {left:.4f} without"
    if bounds[0] <= 1 + AGREEMENT_PERCENT / 100 and bounds[1] >= 1 - AGREEMENT_PERCENT / 100:
        return f"not resolved: the intervals of the medians allow {bounds[0]:.4f} to {bounds[1]:.4f}"
    return f"not explained by {', nor by '.join(effect.text for effect in effects)}"


def explained(text: str) -> bool:
    """Whether an explanation is one."""
    return not text.startswith("not explained")


def nvbench_effects(
    ours: Median, first: Median, peer: Median, empty_ms: float, peer_empty_ms: float
) -> list[Effect]:
    """Return what the run measured of differences to nvbench; `first` is our turn right before it."""
    drift = first.ms / ours.ms
    effects = [
        Effect(
            f"an empty pair of events takes {1e3 * empty_ms:.2f} us, nvbench's {1e3 * peer_empty_ms:.2f} us",
            (1 - empty_ms / ours.ms) / (1 - peer_empty_ms / peer.ms),
        ),
        Effect(f"our turn before it has {drift:.4f} of our median", drift),
    ]
    if ours.sm_clock_mhz and peer.sm_clock_mhz:
        clocks = f"the SM clock was {ours.sm_clock_mhz:.0f} MHz, in nvbench {peer.sm_clock_mhz:.0f} MHz"
        effects.append(Effect(clocks, ours.sm_clock_mhz / peer.sm_clock_mhz))
    return effects


def cupti_effects(
    ours: Median, traced_ms: float, empty_ms: float, gaps_ms: float, activities: float
) -> list[Effect]:
    """Return what the run measured of differences to CUPTI; `traced_ms` is by our events, while it traced."""
    traced = traced_ms / ours.ms
    gaps = f"{activities:.0f} activities with {1e3 * gaps_ms:.2f} us between them"
    return [
        Effect(f"an empty pair of events takes {1e3 * empty_ms:.2f} us", 1 - empty_ms / ours.ms),
        Effect(f"by our events, calls that CUPTI traces take {traced:.4f} of their time ({gaps})", traced),
    ]


def sampled(fn: TimedCall, timer: Timer, rule: StopRule = RULE) -> Median:
    """Warm up and take samples as a sweep does."""
    task = Task.of("cell", fn, rule)
    warm_up(task, timer, rule.warm_up_limit_s)
    sample_rounds([task], timer, make_clocks("cuda"), seed=0)
    clock = task.sampler.median_mhz or summarize_clocks(task.readings).sm_clock_mhz
    return Median(task.sampler.samples, clock)


def call_of(cell: Cell) -> TimedCall:
    """Return the call of a cell on seeded inputs."""
    provider = get_provider(cell.provider)
    provider.load()
    shape = Shape(4, 32, cell.seq_len, 128, 128, "bf16", "cuda")
    return direction_call(provider, InputSet(shape, seed=0), cell.direction).fn


def fingerprint() -> dict[str, str]:
    """Return what rows of one run have in common, apart from the kernels."""
    return {
        "cuda_bench": version("cuda-bench"),
        "cupti_python": version("cupti-python"),
        "device_name": torch.cuda.get_device_name(0),
        "torch": torch.__version__,
    }


class Run:
    """The rows of a CSV, and how the next is measured."""

    def __init__(self, out: Path, nvbench: Nvbench, deadline_s: float) -> None:
        self.out, self._nvbench, self._deadline_s = out, nvbench, deadline_s
        self.cuda, self.cupti = CudaTimer(), CuptiTimer()
        self.stream = torch.cuda.Stream()
        self.rows: dict[tuple[str, str, str], dict[str, Any]] = {
            key: row for key, row in recorded(out) if self._is_current(row)
        }
        self._nvbench_empty_ms = math.nan

    @property
    def left(self) -> list[int]:
        """The numbers of the cells that have no row."""
        return [number for number, cell in enumerate(CELLS) if cell.key not in self.rows]

    def measure(self, state: Any, number: int) -> None:
        """Measure a cell and write the CSV; nvbench calls this."""
        if time.monotonic() > self._deadline_s:
            state.skip("the time limit is reached")
            return
        with torch.cuda.stream(self.stream):
            if number == NOTHING:
                empty, _ = self._nvbench.sampled(state, lambda: None, self.stream, NVBENCH_EMPTY_SAMPLES)
                self._nvbench_empty_ms = float(np.median(empty))
                return
            cell = CELLS[number]
            self.rows[cell.key] = self._row(state, cell)
        gc.collect()
        torch.cuda.empty_cache()
        write_rows(self.out, [self.rows[cell.key] for cell in CELLS if cell.key in self.rows])
        print(*summary(self.rows[cell.key]), flush=True)

    def _row(self, state: Any, cell: Cell) -> dict[str, object]:
        fn = call_of(cell)
        first = sampled(fn, self.cuda)
        peer = Median(*self._nvbench.sampled(state, fn, self.stream, len(first.samples)))
        spans = sampled(fn, self.cupti)
        calls = self.cupti.calls[-len(spans.samples) :]
        self.cupti.release()  # which ends the tracing
        last = sampled(fn, self.cuda)
        empty_ms = self.cuda.empty_us() / 1e3
        self.cuda.release()
        ours = Median(first.samples + last.samples, first.sm_clock_mhz)
        traced_ms, busy, activities = (
            float(np.median([getattr(call, name) for call in calls]))
            for name in ("events_ms", "busy_ms", "activities")
        )
        gaps_ms = float(np.median([call.span_ms - call.busy_ms for call in calls]))
        to_cupti = ours.ms / spans.ms
        row: dict[str, object] = dict(zip(("provider", "direction", "seq_len"), cell.key, strict=True))
        row |= {"batch": 4, "heads": 32, "head_dim": 128, "dtype": "bf16"} | ours.columns("lbench")
        row |= {
            "lbench_drift_percent": f"{100 * (last.ms / first.ms - 1):+.2f}",
            "lbench_sm_clock_mhz": _shown(ours.sm_clock_mhz, ".0f"),
            "empty_us": f"{1e3 * empty_ms:.3f}",
        } | peer.columns("nvbench")
        row |= {
            "nvbench_sm_clock_mhz": _shown(peer.sm_clock_mhz, ".0f"),
            "nvbench_empty_us": f"{1e3 * self._nvbench_empty_ms:.3f}",
            "nvbench_ratio": "",
            "nvbench_explained_by": f"not explained: it accepted no sample within {TIMEOUT_S:g} s",
        }
        if peer.samples:
            to_nvbench = ours.ms / peer.ms
            effects = nvbench_effects(ours, first, peer, empty_ms, self._nvbench_empty_ms)
            row["nvbench_ratio"] = f"{to_nvbench:.4f}"
            row["nvbench_explained_by"] = explanation(to_nvbench, effects, ratio_bounds(ours, peer))
        row |= spans.columns("cupti") | {
            "cupti_busy_ms": f"{busy:.6f}",
            "cupti_gaps_us": f"{1e3 * gaps_ms:.3f}",
            "cupti_activities": f"{activities:.0f}",
            "cupti_events_ms": f"{traced_ms:.6f}",
            "cupti_sm_clock_mhz": _shown(spans.sm_clock_mhz, ".0f"),
            "cupti_ratio": f"{to_cupti:.4f}",
            "cupti_explained_by": explanation(
                to_cupti,
                cupti_effects(ours, traced_ms, empty_ms, gaps_ms, activities),
                ratio_bounds(ours, spans),
            ),
        }
        return row | {
            "provider_version": get_provider(cell.provider).version(),
            "harness_commit": harness_commit(),
            **fingerprint(),
        }

    @staticmethod
    def _is_current(row: dict[str, str]) -> bool:
        now = fingerprint() | {"provider_version": get_provider(row["provider"]).version()}
        return bool(row["nvbench_ratio"]) and all(row.get(name) == value for name, value in now.items())


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def recorded(out: Path) -> Iterator[tuple[tuple[str, str, str], dict[str, str]]]:
    """Yield the rows of a CSV that this script has written, by the key of their cell."""
    keys = {cell.key for cell in CELLS}
    if out.exists():
        with out.open(newline="") as file:
            for row in csv.DictReader(file):
                if (key := (row["provider"], row["direction"], row["seq_len"])) in keys:
                    yield key, row


def summary(row: dict[str, Any]) -> Iterator[str]:
    """Yield what is printed of a row."""
    yield from (row["provider"], row["direction"], row["seq_len"])
    for peer in PEERS:
        yield f"{peer} {row[f'{peer}_ratio']}"
        if text := row[f"{peer}_explained_by"]:
            yield f"({text})"


def need_timers() -> None:
    """Raise UsageError, which names everything that is missing, unless all three timers can run."""
    missing = []
    if not torch.cuda.is_available():
        missing.append("a CUDA device")
    try:
        from cuda.bench import State  # noqa: F401 - of the part of it that needs the driver
    except ImportError as error:
        missing.append(f"nvbench: `pip install 'cuda-bench[cu13]'` ({error})")
    try:
        load_cupti()
    except UsageError as error:
        missing.append(str(error))
    if torch.cuda.is_available():
        missing += [f"{name}: {why}" for name in PROVIDERS if (why := get_provider(name).unavailable("cuda"))]
    if missing:
        raise UsageError("nothing was measured; missing: " + "\n  ".join(missing))


def main() -> int:
    """Measure what is left, write the CSV after each cell, judge. Return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="the CSV to write")
    parser.add_argument(
        "--time-limit-s", type=float, default=390.0, help="begin no cell after so long (default 390)"
    )
    args = parser.parse_args()
    begin = time.monotonic()
    try:
        need_timers()
    except UsageError as error:
        print(f"error: {error}")
        return error.exit_code
    with tempfile.TemporaryDirectory() as folder:
        nvbench = Nvbench(folder)
        run = Run(args.out, nvbench, begin + args.time_limit_s)
        if run.left:
            nvbench.run(run.measure, [NOTHING, *run.left])
    if run.left:
        print(f"{len(run.left)} of {len(CELLS)} cells are not measured: run the same command again")
        return ExitCode.DIED
    apart = [row for row in run.rows.values() if not all(explained(row[f"{p}_explained_by"]) for p in PEERS)]
    for row in apart:
        print("not explained:", *summary(row))
    return ExitCode.FOUND if apart else ExitCode.OK


if __name__ == "__main__":
    raise SystemExit(main())
