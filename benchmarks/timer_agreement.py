"""One call, three timers: `lbench`'s events, NVIDIA nvbench's cold measurement, and CUPTI's records.

Run on an otherwise idle GPU, in the repository root, with cuda-bench and cupti-python installed:

    python benchmarks/timer_agreement.py results/h200/timer-agreement.csv

Each cell (provider, direction, seq_len) is measured in one process and on one stream. ``CudaTimer`` and
nvbench (package cuda-bench: blocking kernel, L2 flush, events of its own) take one sample each in turn, so
that both find the GPU as warm; then ``CuptiTimer`` takes as many. All three drop samples at a throttled SM
clock and pause after one. Before the cells a kernel that does nothing is measured in the same way, and after
each cell, with CUPTI, a call of empty kernels whose launches are as large as the call's first and last.

Where a ratio is more than 1 % from 1, ``*_explained_by`` says what accounts for it. Every size that it names
is a column; the columns are in results/README.md.

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
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from nvbench_cold import THROTTLED_PAUSE_S, Nvbench
from rows import write_rows
from timer_rows import (
    EmptyKernel,
    Traced,
    cupti_columns,
    explained,
    launch_columns,
    launches_of,
    median_ms,
    new_sampler,
    nvbench_columns,
    sampler_of,
    timer_columns,
)

from lightning_bench.case import Direction, Shape
from lightning_bench.errors import ExitCode, UsageError
from lightning_bench.machine import harness_commit
from lightning_bench.measure.calls import direction_call
from lightning_bench.measure.device.call_watch import NoCallWatch
from lightning_bench.measure.device.cupti_timer import CuptiTimer, TracedCall
from lightning_bench.measure.device.cupti_trace import load_cupti
from lightning_bench.measure.device.stream_clock import SampleClock
from lightning_bench.measure.device.timer import CudaTimer, TimedCall, Timer
from lightning_bench.measure.inputs import InputSet
from lightning_bench.measure.rounds import Task, warm_up
from lightning_bench.measure.sampling import Sampler
from lightning_bench.providers import get_provider

PROVIDERS = ("lightning2", "sdpa-cudnn", "flash2")
DIRECTIONS: tuple[Direction, ...] = ("fwd", "bwd")
SIZES = (512, 8192, 32768)
PEERS = ("nvbench", "cupti")
# As many samples as fit in so many ms of calls.
FEWEST, MOST, BUDGET_MS = 10, 100, 1500.0
WARM_UP_LIMIT_S = 0.5
EMPTY_SAMPLES = 300  # as many as `CudaTimer.empty_us` takes
TRACED_TURN = 5
EMPTY = -1  # the cell that is a kernel that does nothing
WATCH = NoCallWatch()


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


def warm(fn: TimedCall, timer: Timer) -> float:
    """Warm up as a sweep does. Return about how long a call takes, ms."""
    task = Task.of("cell", fn, new_sampler().rule)
    warm_up(task, timer, WARM_UP_LIMIT_S)
    return task.estimate_ms


def sample_count(call_ms: float) -> int:
    """Return how many samples each timer takes of a call."""
    return max(FEWEST, min(MOST, int(BUDGET_MS / call_ms)))


def take_one(timer: CudaTimer, fn: TimedCall, sampler: Sampler) -> None:
    """Add a sample; after one that was throttled, pause as nvbench does."""
    if not sampler.add(timer.sample(fn, 1, WATCH), 0.0, timer.clocks()):
        time.sleep(THROTTLED_PAUSE_S)


def take_traced(timer: CuptiTimer, fn: TimedCall, count: int) -> Traced:
    """Return at least `count` calls that CUPTI traced, or fewer if as many were throttled."""
    calls: list[TracedCall] = []
    clocks: list[SampleClock | None] = []
    throttled = 0
    while len(calls) - throttled < count and throttled < count:
        timer.sample(fn, TRACED_TURN, WATCH)
        calls += timer.calls[-TRACED_TURN:]
        clocks += timer.clocks()
        seen = sum(clock is not None and clock.throttled for clock in clocks)
        if seen > throttled:
            time.sleep(THROTTLED_PAUSE_S)
        throttled = seen
    return Traced.of(calls, clocks)


def empty_call() -> TimedCall:
    """Return the launch of a kernel that does nothing."""
    from empty_kernel import empty_kernel

    argument = torch.zeros(1, device="cuda")
    return lambda: empty_kernel[(1,)](argument, num_warps=1)


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
        self._empty: EmptyKernel | None = None
        self._overheads_us: dict[str, float] = {}

    @property
    def left(self) -> list[int]:
        """The numbers of the cells that have no row."""
        return [number for number, cell in enumerate(CELLS) if cell.key not in self.rows]

    def measure(self, state: Any, number: int) -> None:
        """Measure a cell and write the CSV; nvbench calls this, first for the empty kernel."""
        if time.monotonic() > self._deadline_s:
            state.skip("the time limit is reached")
            return
        with torch.cuda.stream(self.stream):
            if number == EMPTY:
                pair_us = self.cuda.empty_us()
                ours, peer, traced = self._timed(state, empty_call(), EMPTY_SAMPLES)
                self._empty = EmptyKernel(
                    pair_us=pair_us,
                    lbench_us=1e3 * median_ms(ours),
                    nvbench_us=1e3 * median_ms(peer),
                    traced_us=1e3 * traced.median("events_ms"),
                    cupti_us=1e3 * median_ms(traced.spans),
                )
                return
            if self._empty is None:
                raise RuntimeError("the empty kernel was not measured: nvbench has said why")
            cell = CELLS[number]
            self.rows[cell.key] = self._row(state, cell, self._empty)
        gc.collect()
        torch.cuda.empty_cache()
        write_rows(self.out, [self.rows[cell.key] for cell in CELLS if cell.key in self.rows])
        print(*summary(self.rows[cell.key]), flush=True)

    def _timed(self, state: Any, fn: TimedCall, count: int | None = None) -> tuple[Sampler, Sampler, Traced]:
        """Return the samples of `lbench` and nvbench, taken in turn, and the calls that CUPTI traced."""
        ours = new_sampler()
        call_ms = warm(fn, self.cuda)
        count = count or sample_count(call_ms)
        found = self._nvbench.sampled(
            state, fn, lambda: take_one(self.cuda, fn, ours), stream=self.stream, count=count
        )
        warm(fn, self.cupti)
        traced = take_traced(self.cupti, fn, count)
        self.cupti.release()  # which ends the tracing
        self.cuda.release()
        return ours, sampler_of(*found), traced

    def _row(self, state: Any, cell: Cell, empty: EmptyKernel) -> dict[str, object]:
        ours, peer, traced = self._timed(state, call_of(cell))
        row: dict[str, object] = dict(zip(("provider", "direction", "seq_len"), cell.key, strict=True))
        row |= {"batch": 4, "heads": 32, "head_dim": 128, "dtype": "bf16"}
        for name, sampler in (("lbench", ours), ("nvbench", peer), ("cupti", traced.spans)):
            row |= timer_columns(name, sampler)
        overhead_us = self._overhead_us(traced.calls[0]) if traced.calls else empty.overhead_us
        row |= empty.columns() | launch_columns(traced.calls, overhead_us)
        row |= nvbench_columns(ours, peer) | cupti_columns(ours, traced, overhead_us)
        return row | {
            "provider_version": get_provider(cell.provider).version(),
            "harness_commit": harness_commit(),
            **fingerprint(),
        }

    def _overhead_us(self, call: TracedCall) -> float:
        """Return what events cost around a call that does nothing, with launches as large as this one's."""
        size = launches_of(call)
        if size not in self._overheads_us:
            from empty_kernel import empty_like

            fn = empty_like(call)
            warm(fn, self.cupti)
            traced = take_traced(self.cupti, fn, EMPTY_SAMPLES)
            self.cupti.release()
            self._overheads_us[size] = 1e3 * (traced.median("events_ms") - median_ms(traced.spans))
        return self._overheads_us[size]

    @staticmethod
    def _is_current(row: dict[str, str]) -> bool:
        now = fingerprint() | {"provider_version": get_provider(row["provider"]).version()}
        measured = row.get("nvbench_ratio") and row.get("cupti_remainder_us") and "launches" in row
        return bool(measured) and all(row.get(name) == value for name, value in now.items())


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
        missing.append(f"nvbench: `pip install 'cuda-bench[cu13]>=0.3'` ({error})")
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
            nvbench.run(run.measure, [EMPTY, *run.left])
    if run.left:
        print(f"{len(run.left)} of {len(CELLS)} cells are not measured: run the same command again")
        return ExitCode.DIED
    apart = [row for row in run.rows.values() if not all(explained(row[f"{p}_explained_by"]) for p in PEERS)]
    for row in apart:
        print("not explained:", *summary(row))
    return ExitCode.FOUND if apart else ExitCode.OK


if __name__ == "__main__":
    raise SystemExit(main())
