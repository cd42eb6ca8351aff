"""What two faults of the published benchmarks do to a time: a call with and without the fault, in turns.

Run on a GPU in the repository root:

    python benchmarks/published_faults.py results/h200/published-faults.csv

``gradient accumulation``: ``o.backward(do, retain_graph=True)`` whose leaves have a ``.grad`` already, as the
lightning-attention script times it, against ``torch.autograd.grad``; batch 4, heads 32, 512 to 32768 tokens.
``no causal mask``: FlashAttention-2 forward and backward as the flash-linear-attention script calls it,
against ``causal=True``; batch 8, heads 32, 128 to 16384 tokens. head_dim 128, bf16. Both are timed by the
harness: cold L2, shuffled rounds, medians to 1 %.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from rows import out_path, write_rows

from lightning_bench.case import Shape
from lightning_bench.machine import harness_commit
from lightning_bench.measure.device.clocks import NvmlClocks
from lightning_bench.measure.device.timer import CudaTimer
from lightning_bench.measure.inputs import InputSet
from lightning_bench.measure.rounds import Task, run_rounds, warm_up
from lightning_bench.measure.sampling import StopRule
from lightning_bench.providers import get_provider

RULE = StopRule(ci_percent=1.0, min_samples=20, max_samples=200, sample_limit_s=3.0)
PROVIDERS = ("lightning2", "lightning-official", "flash2", "xformers")

Call = Callable[[], object]


def accumulation(provider: str, shape: Shape) -> tuple[Call, Call]:
    """Backward on a retained graph: adding to the ``.grad`` of q, k and v, and returning new gradients."""
    made, inputs = get_provider(provider), InputSet(shape, seed=0)
    made.load()
    given, do = inputs.inputs(made.layout), inputs.grad_output(made.layout)
    leaves = (given.q, given.k, given.v)
    output = made.build(given)()
    output.backward(do, retain_graph=True)  # from here on there is a .grad to add to
    return (
        lambda: output.backward(do, retain_graph=True),
        lambda: torch.autograd.grad(output, leaves, do, retain_graph=True),
    )


def mask(shape: Shape) -> tuple[Call, Call]:
    """FlashAttention-2 forward and backward, of all pairs of tokens and with the causal mask."""
    from flash_attn import flash_attn_func

    inputs = InputSet(shape, seed=0)
    given, do = inputs.inputs("bnhd"), inputs.grad_output("bnhd")
    leaves = (given.q, given.k, given.v)

    def call(causal: bool) -> Call:
        return lambda: torch.autograd.grad(flash_attn_func(*leaves, causal=causal), leaves, do)

    return call(False), call(True)


def pairs() -> Iterator[tuple[str, str, str, Shape, tuple[Call, Call]]]:
    """Fault, provider, direction, shape, and the call with the fault and without."""
    for provider in PROVIDERS:
        for n in (512 * 2**i for i in range(7)):
            shape = Shape(4, 32, n, 128, 128, "bf16", "cuda")
            yield "gradient accumulation", provider, "bwd", shape, accumulation(provider, shape)
    for n in (128 * 2**i for i in range(8)):
        shape = Shape(8, 32, n, 128, 128, "bf16", "cuda")
        yield "no causal mask", "flash2", "fwd_bwd", shape, mask(shape)


def main() -> None:
    """Measure and write the CSV, anew after each pair."""
    out = out_path(__doc__)
    clocks, commit = NvmlClocks(), harness_commit()
    rows = []
    for fault, provider, direction, shape, calls in pairs():
        timer = CudaTimer()
        tasks = [Task.of(name, fn, RULE) for name, fn in zip(("with", "without"), calls, strict=True)]
        for task in tasks:
            warm_up(task, timer, 1.0)
        run_rounds(tasks, timer, clocks, seed=0)
        with_ms, without_ms = (float(np.median(task.sampler.samples)) for task in tasks)
        rows.append(
            {
                "fault": fault,
                "provider": provider,
                "provider_version": get_provider(provider).version(),
                "direction": direction,
                "batch": shape.batch,
                "heads": shape.heads,
                "seq_len": shape.seq_len,
                "head_dim": shape.head_dim,
                "dtype": shape.dtype,
                "with_ms": f"{with_ms:.6f}",
                "without_ms": f"{without_ms:.6f}",
                "with_samples": len(tasks[0].sampler.samples),
                "without_samples": len(tasks[1].sampler.samples),
                "sm_clock_mhz": f"{np.median([r.sm_clock_mhz for t in tasks for r in t.readings]):.0f}",
                "device_name": torch.cuda.get_device_name(0),
                "torch": torch.__version__,
                "harness_commit": commit,
            }
        )
        print(
            f"{fault}, {provider}, n = {shape.seq_len}: {with_ms:.4f} with, {without_ms:.4f} without",
            flush=True,
        )
        write_rows(out, rows)
        del calls, tasks, timer
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
