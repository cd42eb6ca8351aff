"""The kernels that serve, on batches of an engine, against the time that their bytes take as a copy.

Run on a GPU in the repository root:

    python benchmarks/serving_batches.py results/h200/serving-batches.csv

Times batches of 64 heads of 128 in bf16 by ``CudaTimer`` (cold L2, launches hidden), each in rounds with a
``Tensor.copy_`` of as many bytes: decoding, prompts, prompts beside decoding tokens, and drafts. Bytes are q,
k, v and o once and each state once read and once written, that of a draft only read; what a call really moves
may be more. `serve-portable` is with ``LIGHTNING_KERNELS_HOPPER=0``, `serve-tokens` with
``LIGHTNING_KERNELS_INVARIANT=1``. With ``--tiles`` the batch that is mixed is timed with other tiles, too.
``--only`` leaves the rows of other workloads in the CSV as they are.
"""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import triton
from rows import kernels_version, write_rows
from torch import Tensor

import lightning_kernels as lk
from lightning_bench.machine import harness_commit
from lightning_bench.measure.device.clocks import Clocks, NvmlClocks, summarize_clocks
from lightning_bench.measure.device.timer import CudaTimer, Timer
from lightning_bench.measure.inputs import decay_slopes
from lightning_bench.measure.rounds import Task, run_rounds, warm_up
from lightning_bench.measure.sampling import StopRule, median_interval
from lightning_kernels.lightning2.tiles import Tiles
from lightning_kernels.serving import serve_kernel

HEADS, DIM = 64, 128
PROMPTS, PROMPT, DECODES, DRAFT = 8, 2048, 56, 4
BATCHES, BATCH = (1, 8, 64, 256), 64
RULE = StopRule(ci_percent=1.0, min_samples=30, max_samples=200, sample_limit_s=2.0)
TILES = [(128, 8, 3), (64, 4, 2), (64, 4, 3), (64, 8, 2), (32, 4, 2), (32, 4, 3)]
"""Columns, warps and stages; each state has head_dim · columns / (32 · warps) registers per thread."""


@dataclass
class Served:
    """A batch of sequences with a pool, and the calls that compute it."""

    lengths: list[int]
    device: str
    pool_dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        generator = torch.Generator(device=self.device).manual_seed(0)
        self.dtype = torch.bfloat16 if self.device == "cuda" else torch.float16
        tokens, count = sum(self.lengths), len(self.lengths)
        shape = (tokens, HEADS, DIM)
        self.q, self.k, self.v = (
            torch.randn(shape, generator=generator, device=self.device).to(self.dtype) for _ in range(3)
        )
        self.s = decay_slopes(HEADS).to(self.device)
        self.pool = torch.zeros(count, HEADS, DIM, DIM, device=self.device, dtype=self.pool_dtype)
        bounds = torch.tensor([0, *self.lengths]).cumsum(0)
        self.bounds = bounds.to(self.device, torch.int32)
        self.slots = torch.arange(count, device=self.device, dtype=torch.int32)
        self.rows = (self.q, self.k, self.v, self.s)
        self.common = {"state": self.pool, "state_indices": self.slots, "scale": DIM**-0.5}

    @property
    def bytes(self) -> int:
        """Bytes of q, k, v and o, and of each state twice."""
        return 4 * self.q.nbytes + 2 * self.pool.nbytes

    def serve(self, **options: object) -> Callable[[], object]:
        """Return a call of `lightning_attn2_serve`."""
        return lambda: lk.lightning_attn2_serve(*self.rows, cu_seqlens=self.bounds, **self.common, **options)

    def bitwise(self) -> Callable[[], object]:
        """Return a call of `lightning_attn2_serve_bitwise` in the middle of a block."""
        tails = lk.make_tails(len(self.lengths), HEADS, DIM, DIM, self.dtype, self.device)
        for tail in tails:
            tail.zero_()
        before = torch.full_like(self.slots, 96)
        return lambda: lk.lightning_attn2_serve_bitwise(
            *self.rows, tails=tails, cu_seqlens=self.bounds, context_lens=before, **self.common
        )

    def step(self, **options: object) -> Callable[[], object]:
        """Return a call of `lightning_attn2_step`."""
        return lambda: lk.lightning_attn2_step(*self.rows, **{**self.common, **options})

    def packed(self) -> Callable[[], object]:
        """Return a call of `lightning_attn2`, which leaves new states."""
        q, k, v = (x[None] for x in self.rows[:3])
        options = {"cu_seqlens": self.bounds, "initial_state": self.pool, "layout": "bnhd"}
        return lambda: lk.lightning_attn2(q, k, v, self.s, return_state=True, scale=DIM**-0.5, **options)


def switched(call: Callable[[], object], name: str, value: str) -> Callable[[], object]:
    """Return the call with LIGHTNING_KERNELS_`name` set."""
    variable = f"LIGHTNING_KERNELS_{name}"

    def call_switched() -> object:
        os.environ[variable] = value
        try:
            return call()
        finally:
            del os.environ[variable]

    return call_switched


def in_tokens(call: Callable[[], object]) -> Callable[[], object]:
    """Return the call as one that adds token by token."""
    return switched(call, "INVARIANT", "1")


def portable(call: Callable[[], object]) -> Callable[[], object]:
    """Return the call without the Hopper kernel."""
    return switched(call, "HOPPER", "0")


def with_tiles(call: Callable[[], object], tiles: Tiles) -> Callable[[], object]:
    """Return the call by `serve_kernel` with other tiles."""
    call = portable(call)
    chosen = serve_kernel.serve_tiles

    def changed() -> object:
        serve_kernel.serve_tiles = lambda *_: tiles  # type: ignore[assignment]
        try:
            return call()
        finally:
            serve_kernel.serve_tiles = chosen

    return changed


def decoding(batch: int, device: str) -> tuple[dict[str, Callable[[], object]], int]:
    """Return the calls that decode, by name, and their bytes."""
    served = Served([1] * batch, device)
    calls = {
        "step": served.step(state_indices=None),
        "step-pool": served.step(),
        "serve": served.serve(),
        "serve-max-seqlen": served.serve(max_seqlen=1),
        "bitwise": served.bitwise(),
    }
    return calls, served.bytes


def decoding_in_bf16(batch: int, device: str) -> tuple[dict[str, Callable[[], object]], int]:
    """Return the calls that decode on states in bf16, by name, and their bytes."""
    served = Served([1] * batch, device, torch.bfloat16)
    seeds = served.slots.to(torch.int64)
    return {"step-pool": served.step(), "step-stochastic": served.step(rounding_seeds=seeds)}, served.bytes


def prompts_in_bf16(device: str) -> tuple[dict[str, Callable[[], object]], int]:
    """Return the calls on prompts with states in bf16, by name, and their bytes."""
    served = Served([PROMPT] * PROMPTS, device, torch.bfloat16)
    seeds = served.slots.to(torch.int64)
    calls = {
        "serve": served.serve(),
        "serve-portable": portable(served.serve()),
        "serve-stochastic": served.serve(rounding_seeds=seeds),
    }
    return calls, served.bytes


def prompts(decodes: int, device: str, tiles: bool = False) -> tuple[dict[str, Callable[[], object]], int]:
    """Return the calls on prompts beside `decodes` decoding tokens, by name, and their bytes."""
    served = Served([*[PROMPT] * PROMPTS, *[1] * decodes], device)
    snapshots = lk.Snapshots(512, torch.full((len(served.lengths), 4), -1, device=device, dtype=torch.int32))
    calls = {
        "serve": served.serve(),
        "serve-portable": portable(served.serve()),
        "serve-snapshots": served.serve(snapshots=snapshots),
        "serve-tokens": in_tokens(served.serve()),
        "bitwise": served.bitwise(),
        "lightning_attn2": served.packed(),
    }
    if tiles:
        base = serve_kernel.serve_tiles(DIM, DIM, served.dtype, 232448)
        for block_e, warps, stages in TILES:
            other = replace(base, block_e=block_e, split_e=-(-DIM // block_e), warps=warps, stages=stages)
            calls[f"serve {other}"] = with_tiles(served.serve(), other)
    return calls, served.bytes


def drafts(batch: int, device: str) -> tuple[dict[str, Callable[[], object]], int]:
    """Return the calls on drafts, by name, and the bytes of one that reads states only."""
    served = Served([DRAFT] * batch, device)
    q, k, v = (x.unflatten(0, (batch, DRAFT)) for x in served.rows[:3])
    accepted = lk.Accepted(k, v, torch.full_like(served.slots, DRAFT // 2))
    some = {"state": served.pool, "state_indices": served.slots}

    def steps() -> object:
        return [
            lk.lightning_attn2_step(q[:, t], k[:, t], v[:, t], served.s, **some) for t in range(DRAFT)
        ]  # fmt: skip

    calls: dict[str, Callable[[], object]] = {
        "verify": lambda: lk.lightning_attn2_verify(q, k, v, served.s, **some),
        "verify-accepted": lambda: lk.lightning_attn2_verify(q, k, v, served.s, accepted=accepted, **some),
        "commit": lambda: lk.lightning_attn2_commit(
            k, v, served.s, num_accepted=accepted.num_accepted, **some
        ),
        "serve": served.serve(),
        "steps": steps,
    }
    return calls, served.bytes - served.pool.nbytes


Workloads = dict[str, Callable[[], tuple[dict[str, Callable[[], object]], int]]]


def workloads(device: str, tiles: bool) -> Workloads:
    """Return what is measured: from a name to a function that gives its calls and bytes."""
    return {
        **{f"decode b{b}": lambda b=b: decoding(b, device) for b in BATCHES},  # type: ignore[misc]
        f"decode b{BATCH}, states in bf16": lambda: decoding_in_bf16(BATCH, device),
        f"{PROMPTS} prompts of {PROMPT}": lambda: prompts(0, device),
        f"{PROMPTS} prompts of {PROMPT}, states in bf16": lambda: prompts_in_bf16(device),
        f"{PROMPTS} prompts of {PROMPT} and {DECODES} decodes": lambda: prompts(DECODES, device, tiles),
        f"drafts of {DRAFT}, b{BATCH}": lambda: drafts(BATCH, device),
    }


def copy_call(size_bytes: int, device: str) -> Callable[[], Tensor]:
    """Return a copy that reads and writes `size_bytes` in all."""
    source = torch.randn(max(1, size_bytes // 8), device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def measure(
    workload: str,
    calls: dict[str, Callable[[], object]],
    size: int,
    timer: Timer,
    clocks: Clocks,
    device: str,
) -> list[dict[str, object]]:
    """Return a row for each call of a workload."""
    named = {**calls, "copy": copy_call(size, device)}
    with torch.inference_mode():
        tasks = {name: Task.of(name, call, RULE) for name, call in named.items()}
        for task in tasks.values():
            warm_up(task, timer, 0.3)
        run_rounds(list(tasks.values()), timer, clocks, seed=0)
    median = {name: float(np.median(task.sampler.samples)) for name, task in tasks.items()}
    rows: list[dict[str, object]] = []
    for name, task in tasks.items():
        low, high = median_interval(task.sampler.samples)
        readings = summarize_clocks(task.readings)
        trouble = [why for why in (task.sampler.trouble(), readings.trouble) if why]
        rows.append(
            {
                "workload": workload, "call": name, "bytes": size, "median_ms": f"{median[name]:.6f}",
                "ci_low_ms": f"{low:.6f}", "ci_high_ms": f"{high:.6f}", "samples": len(task.sampler.samples),
                "ratio_to_copy": f"{median[name] / median['copy']:.4f}", "trouble": "; ".join(trouble),
                "device_name": torch.cuda.get_device_name(0) if device == "cuda" else "cpu",
                "torch": torch.__version__, "triton": triton.__version__,
                "provider_version": kernels_version(), "harness_commit": harness_commit(),
            }
        )  # fmt: skip
    return rows


def rows_of(path: Path, names: list[str]) -> list[dict[str, object]]:
    """Return the rows of these workloads in a CSV, none if there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [dict(row) for row in csv.DictReader(file) if row["workload"] in names]


def sweep(out: Path, only: str, every: Workloads, timer: Timer, clocks: Clocks, device: str) -> None:
    """Measure the workloads whose names contain `only`, print, write the CSV after each of them.

    Rows of other workloads that it has stay.
    """
    names = list(every)
    rows = rows_of(out, [name for name in names if only not in name])
    for workload in names:
        if only not in workload:
            continue
        calls, size = every[workload]()
        new = measure(workload, calls, size, timer, clocks, device)
        timer.release()  # what it learnt is keyed by calls that are gone
        torch.cuda.empty_cache()
        rows = sorted([*rows, *new], key=lambda row: names.index(str(row["workload"])))
        write_rows(out, rows)
        for row in new:
            figures = f"{row['median_ms']} ms {row['ratio_to_copy']} {row['trouble']}"
            print(f"{workload:40} {row['call']:28} {figures}", flush=True)


def main() -> None:
    """Measure on the GPU."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="the CSV to write")
    parser.add_argument("--tiles", action="store_true", help="time the mixed batch with other tiles, too")
    parser.add_argument("--only", default="", help="workloads whose name contains this; rows of others stay")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("needs a CUDA device")
    every = workloads("cuda", arguments.tiles)
    sweep(arguments.out, arguments.only, every, CudaTimer(), NvmlClocks(), "cuda")


if __name__ == "__main__":
    main()
