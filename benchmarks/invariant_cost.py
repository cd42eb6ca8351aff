"""What LIGHTNING_KERNELS_INVARIANT=1 costs `lightning_attn2`: each call with and without it, in turns.

Run on an otherwise idle GPU, in the repository root:

    python benchmarks/invariant_cost.py results/h200/invariant-cost.csv

Heads of 128 in bf16, a cold L2, launches hidden. With the switch the bits of a row do not depend on what else
is computed, so a call with few heads is not cut into segments. ``ratio`` is the time with it over that
without.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import torch
from rows import out_path, write_rows
from serving_batches import switched

from lightning_bench.case import Device, Direction, Shape
from lightning_bench.machine import harness_commit
from lightning_bench.measure.calls import direction_call
from lightning_bench.measure.device.clocks import Clocks, make_clocks
from lightning_bench.measure.device.timer import Timer, make_timer
from lightning_bench.measure.inputs import InputSet
from lightning_bench.measure.rounds import Task, run_rounds, warm_up
from lightning_bench.measure.sampling import StopRule
from lightning_bench.providers import get_provider

PROVIDER = "lightning2"
SHAPES = ((4, 32, 512), (4, 32, 8192), (1, 64, 8192), (1, 8, 8192), (1, 8, 32768), (1, 8, 131072))
"""Batch, heads and tokens."""
DIRECTIONS: tuple[Direction, ...] = ("fwd", "bwd")
RULE = StopRule(ci_percent=0.5, min_samples=20, max_samples=100, sample_limit_s=2.0)


def measured(shape: Shape, direction: Direction, timer: Timer, clocks: Clocks) -> dict[str, object]:
    """Return the row of a call: medians in ms, without the switch and with it."""
    call = direction_call(get_provider(PROVIDER), InputSet(shape, seed=0), direction).fn
    tasks = [
        Task.of("default", call, RULE),
        Task.of("invariant", switched(call, "INVARIANT", "1"), RULE),
    ]
    for task in tasks:
        warm_up(task, timer, RULE.warm_up_limit_s)
    run_rounds(tasks, timer, clocks, seed=0)
    default, invariant = (statistics.median(task.sampler.samples) for task in tasks)
    return {
        "direction": direction, "batch": shape.batch, "heads": shape.heads, "seq_len": shape.seq_len,
        "head_dim": shape.head_dim, "dtype": shape.dtype, "default_ms": f"{default:.6f}",
        "invariant_ms": f"{invariant:.6f}", "ratio": f"{invariant / default:.4f}",
        "samples": len(tasks[1].sampler.samples),
    }  # fmt: skip


def rows(device: Device) -> Iterator[dict[str, object]]:
    """Yield a row for each shape and direction."""
    timer, clocks = make_timer(device), make_clocks(device)
    for batch, heads, seq_len in SHAPES:
        for direction in DIRECTIONS:
            yield measured(Shape(batch, heads, seq_len, 128, 128, "bf16", device), direction, timer, clocks)
            timer.release()  # what it learnt is keyed by calls that are gone


def main() -> None:
    """Measure, print and write the CSV."""
    out = out_path(__doc__)
    if not torch.cuda.is_available():
        raise SystemExit("needs a CUDA device")
    common = {
        "provider": PROVIDER, "provider_version": get_provider(PROVIDER).version(),
        "torch": torch.__version__, "harness_commit": harness_commit(),
        "device_name": torch.cuda.get_device_name(),
    }  # fmt: skip
    written: list[dict[str, object]] = []
    for row in rows("cuda"):
        written.append(row | common)
        write_rows(out, written)
        print(row, flush=True)


if __name__ == "__main__":
    main()
