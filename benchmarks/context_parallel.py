"""Context-parallel `lightning_attn2` on the GPUs of one host, against one GPU that has a rank's tokens alone.

Run on otherwise idle GPUs, in the repository root:

    python benchmarks/context_parallel.py results/h200-x2/context-parallel.csv

Each rank is a process with a GPU, over NCCL. A sample is one call after a barrier and a write that takes the
L2; what a rank waits for the others counts. `alone_ms` is the same call without cp on the tokens of one rank,
in the same process, and `efficiency` its share of the longest rank's time. Slopes are those of 64 heads, in
layers 0 and 79 of 80. A row is written as soon as it is measured.

    python benchmarks/context_parallel.py results/h200-x2/context-parallel-trace.csv --trace

writes instead what ran on rank 0 when, by torch.profiler, in one forward pass each with few states, which are
gathered at once, and with many, which are gathered in parts while those of the next heads are computed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from rows import kernels_version, write_rows
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from lightning_bench.machine import harness_commit
from lightning_kernels import ContextParallel, layer_slopes, lightning_attn2

PROVIDER = "context-parallel"
HEADS, DIM, LAYERS = 64, 128, 80
SAMPLES = 15
FLUSH_BYTES = 2**28
HIDE_CYCLES = 2_000_000  # about 1 ms, in which the launches are enqueued
TRACED_BATCHES = 1, 32
TRACED_TOKENS = 2**14


def sample_ms(fn: Callable[[], Any], cold: Tensor) -> float:
    """Return the time of one call on a device that is held until all of it is enqueued."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    dist.barrier()
    cold.zero_()
    torch.cuda._sleep(HIDE_CYCLES)
    begin.record()
    fn()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def longest_ms(fn: Callable[[], Any], cold: Tensor) -> float:
    """Return the median over samples of the time on the rank that took longest."""
    for _ in range(3):
        fn()
    times = torch.tensor([sample_ms(fn, cold) for _ in range(SAMPLES)], device="cuda")
    dist.all_reduce(times, dist.ReduceOp.MAX)
    return median(times.tolist())


def calls(n: int, layer: int, batch: int = 1) -> dict[str, dict[str, Callable[[], Any]]]:
    """Return a forward pass, and a forward and a backward one, on n tokens: with cp (`apart`) and `alone`."""
    make = torch.Generator("cuda").manual_seed(dist.get_rank())
    q, k, v, do = (
        torch.randn(batch, HEADS, n, DIM, device="cuda", dtype=torch.bfloat16, generator=make)
        for _ in range(4)
    )
    slopes = layer_slopes(HEADS, layer, LAYERS).to("cuda")
    trained = [x.requires_grad_() for x in (q, k, v)]

    def forward(cp: ContextParallel | None) -> None:
        with torch.no_grad():
            lightning_attn2(q, k, v, slopes, cp=cp)

    def both(cp: ContextParallel | None) -> None:
        torch.autograd.grad(lightning_attn2(*trained, slopes, cp=cp), trained, do)

    return {
        name: {"apart": partial(fn, ContextParallel()), "alone": partial(fn, None)}
        for name, fn in (("fwd", forward), ("fwd_bwd", both))
    }


def measure(out: Path, lengths: list[int]) -> None:
    """Measure every length and layer on this rank; rank 0 writes the rows."""
    ranks, rows = dist.get_world_size(), []
    cold = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")
    for total in lengths:
        for layer in (0, LAYERS - 1):
            pairs = calls(total // ranks, layer)
            for name, pair in pairs.items():
                apart_ms, alone_ms = longest_ms(pair["apart"], cold), longest_ms(pair["alone"], cold)
                rows.append({
                    "provider": PROVIDER, "direction": name, "seq_len": total, "ranks": ranks,
                    "heads": HEADS, "head_dim": DIM, "dtype": "bf16", "layer": f"{layer} of {LAYERS}",
                    "cp_ms": f"{apart_ms:.4f}",
                    "alone_ms": f"{alone_ms:.4f}", "efficiency": f"{alone_ms / apart_ms:.3f}",
                    "provider_version": kernels_version(), "torch": torch.__version__,
                    "harness_commit": harness_commit(), "device_name": torch.cuda.get_device_name(),
                })  # fmt: skip
                if dist.get_rank() == 0:
                    write_rows(out, rows)
                    print(*list(rows[-1].values())[1:11], flush=True)
            del pairs, pair
            torch.cuda.empty_cache()


def trace(out: Path) -> None:
    """Write what runs on this rank in a forward pass of each batch, if it is rank 0."""
    ranks, rows = dist.get_world_size(), []
    cold = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")
    for batch in TRACED_BATCHES:
        forward = calls(TRACED_TOKENS // ranks, LAYERS - 1, batch)["fwd"]["apart"]
        longest_ms(forward, cold)
        with profile(activities=[ProfilerActivity.CUDA]) as traced:
            sample_ms(forward, cold)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trace.json"
            traced.export_chrome_trace(str(path))
            events = json.loads(path.read_text())["traceEvents"]
        ran = sorted(
            (event for event in events if event.get("cat") == "kernel"), key=lambda event: event["ts"]
        )
        # The barrier, the write that takes the L2 and the wait come before the call.
        first = next(at for at, event in enumerate(ran) if "spin" in event["name"]) + 1
        begin = ran[first]["ts"]
        for event in ran[first:]:
            rows.append({
                "provider": PROVIDER, "direction": "fwd", "batch": batch, "heads": HEADS,
                "seq_len": TRACED_TOKENS, "ranks": ranks,
                "kernel": event["name"].split("(")[0], "stream": event["args"]["stream"],
                "begin_us": f"{event['ts'] - begin:.1f}", "duration_us": f"{event['dur']:.1f}",
                "provider_version": kernels_version(), "torch": torch.__version__,
                "harness_commit": harness_commit(), "device_name": torch.cuda.get_device_name(),
            })  # fmt: skip
        del forward
        torch.cuda.empty_cache()
    if dist.get_rank() == 0:
        write_rows(out, rows)


def main() -> int:
    """Start a process per GPU, or be one of them. Return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="the CSV to write")
    parser.add_argument(
        "--seq-len", type=int, nargs="+", default=[2**15, 2**17, 2**19, 2**21],
        help="tokens of all ranks together",
    )  # fmt: skip
    parser.add_argument("--trace", action="store_true", help="write what runs when, and time nothing")
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--store", help=argparse.SUPPRESS)
    args = parser.parse_args()
    ranks = torch.cuda.device_count()
    if ranks < 2:
        print("error: it needs two CUDA devices")
        return 2
    if args.rank is None:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, *sys.argv, "--store", f"{folder}/store", "--rank"]
            processes = [subprocess.Popen([*command, str(rank)]) for rank in range(ranks)]
            return max(abs(process.wait()) for process in processes)
    torch.cuda.set_device(args.rank)
    store = dist.FileStore(args.store, ranks)
    dist.init_process_group("nccl", store=store, rank=args.rank, world_size=ranks)
    if args.trace:
        trace(args.out)
    else:
        measure(args.out, args.seq_len)
    dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
