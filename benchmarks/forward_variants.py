"""Why a peer's forward time differs from one harness to the next: one kernel, timed in several ways.

Run on a GPU in the repository root:

    python benchmarks/forward_variants.py results/h200/forward-variants.csv

Times fla-core's chunk_simple_gla at batch 4, heads 32, seq_len 8192, head_dim 128, bf16 with decay given as
``g_gamma`` [heads] (as the harness does) and as ``g`` [batch, seq_len, heads], and cuDNN SDPA at seq_len
16384; each by ``CudaTimer`` in short cold batches, and by triton's ``do_bench`` under sustained load.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from rows import out_path, write_rows
from triton.testing import do_bench

from lightning_bench.case import Shape
from lightning_bench.machine import harness_commit
from lightning_bench.measure.calls import direction_call
from lightning_bench.measure.device.clocks import NvmlClocks
from lightning_bench.measure.device.timer import CudaTimer
from lightning_bench.measure.inputs import InputSet
from lightning_bench.measure.rounds import Task, run_rounds, warm_up
from lightning_bench.measure.sampling import StopRule
from lightning_bench.providers import get_provider

RULE = StopRule(ci_percent=0.5, min_samples=50, max_samples=200, sample_limit_s=3.0)


def calls() -> dict[str, Callable[[], object]]:
    """Return the calls that are timed, by name."""
    from fla.ops.simple_gla import chunk_simple_gla

    short = InputSet(Shape(4, 32, 8192, 128, 128, "bf16", "cuda"), seed=0)
    long = InputSet(Shape(4, 32, 16384, 128, 128, "bf16", "cuda"), seed=0)
    given = short.inputs("bnhd")
    gate = (-short.decay).expand(4, 8192, 32).contiguous()

    def with_g() -> object:
        with torch.no_grad():
            return chunk_simple_gla(given.q, given.k, given.v, g=gate, scale=1.0)[0]

    def with_grad() -> object:
        return chunk_simple_gla(given.q, given.k, given.v, g_gamma=-short.decay, scale=1.0)[0]

    return {
        "fla-chunk n=8192, g_gamma, no_grad": direction_call(get_provider("fla-chunk"), short, "fwd").fn,
        "fla-chunk n=8192, g_gamma, grad enabled": with_grad,
        "fla-chunk n=8192, g, no_grad": with_g,
        "sdpa-cudnn n=16384": direction_call(get_provider("sdpa-cudnn"), long, "fwd").fn,
    }


def main() -> None:
    """Measure and write the CSV."""
    out = out_path(__doc__)
    clocks = NvmlClocks()
    rows = []
    for name, fn in calls().items():
        timer, task = CudaTimer(), Task.of(name, fn, RULE)
        warm_up(task, timer, 1.0)
        run_rounds([task], timer, clocks, seed=0)
        cold_clock = np.median([reading.sm_clock_mhz for reading in task.readings])
        sustained = do_bench(fn, warmup=500, rep=1500, return_mode="median")
        after = clocks.read()
        rows.append(
            {
                "call": name,
                "cold_batches_median_ms": f"{np.median(task.sampler.samples):.6f}",
                "cold_batches_sm_clock_mhz": f"{cold_clock:.0f}",
                "do_bench_median_ms": f"{sustained:.6f}",
                "do_bench_sm_clock_mhz": f"{after.sm_clock_mhz:.0f}",
                "device_name": torch.cuda.get_device_name(0),
                "torch": torch.__version__,
                "harness_commit": harness_commit(),
            }
        )
        print(rows[-1])
    write_rows(out, rows)


if __name__ == "__main__":
    main()
