"""One-token decoding against the copy of as many bytes: does the kernel run at the speed of memory?

Run on a GPU in the repository root:

    python benchmarks/decode_bandwidth.py results/h200/decode-bandwidth.csv

Times ``lightning_attn2_step`` on bf16 tokens and fp32 states by ``CudaTimer`` (cold L2, launches hidden), in
rounds with ``Tensor.copy_`` of two sizes: as many bytes as the state, and 1 GiB. GB/s counts every byte once
where it is read and once where it is written: the state twice, q, k, v and o; a copy its source and target.
What is written may still sit in the L2 when the clock stops, so small sizes compare with the copy of as many
bytes, large ones with both. The CSV has a row a shape.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import triton
from rows import kernels_version, write_rows
from torch import Tensor

from lightning_bench.machine import harness_commit
from lightning_bench.measure.device.clocks import Clocks, NvmlClocks, summarize_clocks
from lightning_bench.measure.device.timer import CudaTimer, Timer
from lightning_bench.measure.inputs import decay_slopes
from lightning_bench.measure.rounds import Task, run_rounds, warm_up
from lightning_bench.measure.sampling import StopRule, median_interval
from lightning_kernels import lightning_attn2_step

BATCHES = (1, 8, 64, 256)
HEADS_AND_DIM = ((32, 128), (64, 64))
LARGE_COPY_BYTES = 2**30
RULE = StopRule(ci_percent=0.5, min_samples=50, max_samples=400, sample_limit_s=3.0)


def step_call(batch: int, heads: int, dim: int, device: str) -> tuple[Callable[[], Tensor], Tensor, int]:
    """Return a decoding step, its state, and the bytes that it reads and writes."""
    generator = torch.Generator(device=device).manual_seed(0)
    shape = (batch, heads, dim)
    dtype = torch.bfloat16 if device == "cuda" else torch.float16  # the interpreter has no bf16
    q, k, v = (torch.randn(shape, generator=generator, device=device).to(dtype) for _ in range(3))
    slopes = decay_slopes(heads).to(device)
    state = torch.zeros((batch, heads, dim, dim), device=device)

    def call() -> Tensor:
        with torch.no_grad():
            return lightning_attn2_step(q, k, v, slopes, state=state, scale=dim**-0.5)

    return call, state, 2 * state.nbytes + 4 * q.nbytes


def copy_call(size_bytes: int, device: str) -> Callable[[], Tensor]:
    """Return a copy of `size_bytes`, which reads and writes that many bytes."""
    source = torch.randn(size_bytes // 4, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def measure(
    batch: int, heads: int, dim: int, timer: Timer, clocks: Clocks, *, device: str, large_copy_bytes: int
) -> dict[str, object]:
    """Return the row of one shape."""
    step, state, step_bytes = step_call(batch, heads, dim, device)
    bytes_moved = {"step": step_bytes, "copy_same": 2 * state.nbytes, "copy_large": 2 * large_copy_bytes}
    tasks = {
        "step": Task.of("step", step, RULE),
        "copy_same": Task.of("copy_same", copy_call(state.nbytes, device), RULE),
        "copy_large": Task.of("copy_large", copy_call(large_copy_bytes, device), RULE),
    }
    for task in tasks.values():
        warm_up(task, timer, 1.0)
    run_rounds(list(tasks.values()), timer, clocks, seed=0)
    median = {name: float(np.median(task.sampler.samples)) for name, task in tasks.items()}
    gbps = {name: bytes_moved[name] / median[name] / 1e6 for name in tasks}
    low, high = median_interval(tasks["step"].sampler.samples)
    readings = summarize_clocks(tasks["step"].readings)
    trouble = [f"{name}: {why}" for name, task in tasks.items() if (why := task.sampler.trouble())]
    trouble += [f"{name}: launches not hidden" for name, task in tasks.items() if timer.exposed(task.fn)]
    trouble += [readings.trouble] if readings.trouble else []
    return {
        "batch": batch,
        "heads": heads,
        "head_dim": dim,
        "value_dim": dim,
        "dtype": "bf16" if device == "cuda" else "fp16",
        "state_bytes": state.nbytes,
        "step_bytes": step_bytes,
        "step_median_ms": f"{median['step']:.6f}",
        "step_ci_low_ms": f"{low:.6f}",
        "step_ci_high_ms": f"{high:.6f}",
        "step_samples": len(tasks["step"].sampler.samples),
        "step_gbps": f"{gbps['step']:.1f}",
        "copy_same_bytes_median_ms": f"{median['copy_same']:.6f}",
        "copy_same_bytes_gbps": f"{gbps['copy_same']:.1f}",
        "copy_large_bytes": large_copy_bytes,
        "copy_large_median_ms": f"{median['copy_large']:.6f}",
        "copy_large_gbps": f"{gbps['copy_large']:.1f}",
        "ratio_to_copy_same": f"{gbps['step'] / gbps['copy_same']:.4f}",
        "ratio_to_copy_large": f"{gbps['step'] / gbps['copy_large']:.4f}",
        "step_call_median_ms": f"{np.median(tasks['step'].call_samples):.6f}",
        "sm_clock_mhz": "" if readings.sm_clock_mhz is None else f"{readings.sm_clock_mhz:.0f}",
        "trouble": "; ".join(trouble),
        "device_name": torch.cuda.get_device_name(0) if device == "cuda" else "cpu",
        "torch": torch.__version__,
        "triton": triton.__version__,
        "provider_version": kernels_version(),
        "harness_commit": harness_commit(),
    }


def main() -> None:
    """Measure, print, write the CSV after every row."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="the CSV to write")
    out = parser.parse_args().out
    if not torch.cuda.is_available():
        raise SystemExit("needs a CUDA device")
    timer, clocks = CudaTimer(), NvmlClocks()
    rows: list[dict[str, object]] = []
    for heads, dim in HEADS_AND_DIM:
        for batch in BATCHES:
            rows.append(
                measure(batch, heads, dim, timer, clocks, device="cuda", large_copy_bytes=LARGE_COPY_BYTES)
            )
            timer.release()  # what it learnt is keyed by calls that are gone
            torch.cuda.empty_cache()
            write_rows(out, rows)
            row = rows[-1]
            print(
                f"b{batch} h{heads} {dim}x{dim}: {row['step_median_ms']} ms, {row['step_gbps']} GB/s, "
                f"{row['ratio_to_copy_large']} of a large copy, {row['ratio_to_copy_same']} of an equal one "
                f"{row['trouble']}",
                flush=True,
            )


if __name__ == "__main__":
    main()
