"""Does where a process puts things change a time? The same calls in fresh processes of unlike pasts.

Run on an otherwise idle GPU, in the repository root:

    python benchmarks/placement.py results/h200/placement.csv

A row is one call in one process. Before it measures anything, a process has a past: ``none``; ``ballast``,
tensors of random sizes that it keeps, so that what it allocates later lies elsewhere; ``kernels``, the calls
of other providers; or ``large``, the same calls at 32768 tokens. Processes of all pasts take turns. What
processes without a past differ by is what those with one are compared with.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from rows import write_rows

from lightning_bench.case import Device, Shape
from lightning_bench.machine import describe_machine, harness_commit
from lightning_bench.measure.calls import direction_call
from lightning_bench.measure.device.clocks import make_clocks
from lightning_bench.measure.device.timer import make_timer
from lightning_bench.measure.inputs import InputSet
from lightning_bench.measure.rounds import Task, run_rounds, warm_up
from lightning_bench.measure.sampling import StopRule
from lightning_bench.providers import get_provider

PASTS = ("none", "ballast", "kernels", "large")
PROVIDERS = "lightning2,lightning-official,flash2"
OTHERS = ("lightning2-torch", "sdpa-flash")
RULE = StopRule(ci_percent=0.5, min_samples=30, max_samples=100, sample_limit_s=0.7)
MOST_BALLAST = 64  # tensors of at most as many MiB each
LIMIT_S = 300.0


def shape_of(seq_len: int, device: Device) -> Shape:
    """Return batch 4 with 32 heads of 128 in bf16 on a GPU, and something small on a CPU."""
    if device == "cuda":
        return Shape(4, 32, seq_len, 128, 128, "bf16", device)
    return Shape(1, 2, seq_len, 16, 16, "fp32", device)


def live_through(
    past: str, providers: list[str], large: int, device: Device, seed: int
) -> list[torch.Tensor]:
    """Give this process its past, and return what it keeps of it."""
    if past == "ballast":
        make = random.Random(seed)
        sizes = [make.randint(1, MOST_BALLAST) for _ in range(make.randint(1, MOST_BALLAST))]
        return [torch.zeros(2**20 * size, dtype=torch.uint8, device=device) for size in sizes]
    if past != "none":
        names, seq_len = (OTHERS, 512) if past == "kernels" else (providers, large)
        inputs = InputSet(shape_of(seq_len, device), seed=0)
        for name in names:
            direction_call(get_provider(name), inputs, "bwd").fn()
    return []


def measure(
    past: str, providers: list[str], seq_len: int, large: int, device: Device, seed: int
) -> dict[str, Any]:
    """Return the median time of each provider's backward pass in this process, ms, and the SM clock."""
    kept = live_through(past, providers, large, device, seed)
    timer, clocks = make_timer(device), make_clocks(device)
    inputs = InputSet(shape_of(seq_len, device), seed=0)
    found = {}
    for name in providers:
        task = Task.of(name, direction_call(get_provider(name), inputs, "bwd").fn, RULE)
        warm_up(task, timer, 0.3)
        run_rounds([task], timer, clocks, seed=0)
        read = [reading.sm_clock_mhz for reading in task.readings if reading.sm_clock_mhz]
        found[name] = {
            "median_ms": f"{statistics.median(task.sampler.samples):.6f}",
            "sm_clock_mhz": f"{statistics.median(read):.0f}" if read else "",
        }
    del kept
    return found


def summary(rows: list[dict[str, Any]]) -> list[str]:
    """Return a line for each provider and past: mean against that without one, and how processes differ."""
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in rows:
        times[row["provider"], row["past"]].append(float(row["median_ms"]))
    lines = []
    for (provider, past), medians in times.items():
        plain, mean = statistics.mean(times[provider, "none"]), statistics.mean(medians)
        spread = 100 * statistics.stdev(medians) / mean if len(medians) > 1 else 0.0
        lines.append(
            f"{provider} {past}: {100 * (mean / plain - 1):+.2f} %, processes differ by {spread:.2f} %"
        )
    return lines


def main() -> int:
    """Start the processes, or be one of them. Return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="the CSV to write")
    parser.add_argument("--providers", default=PROVIDERS)
    parser.add_argument("--seq-len", type=int, default=4096)
    parser.add_argument("--large", type=int, default=32768, help="tokens of the past `large`")
    parser.add_argument("--repeats", type=int, default=10, help="processes of each past")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--past", choices=PASTS, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    providers = args.providers.split(",")
    if args.past:
        print(json.dumps(measure(args.past, providers, args.seq_len, args.large, args.device, args.seed)))
        return 0
    machine = describe_machine(args.device)
    rows: list[dict[str, Any]] = []
    for seed in range(args.repeats):
        for past in random.Random(seed).sample(PASTS, len(PASTS)):
            command = [sys.executable, *sys.argv, "--past", past, "--seed", str(seed)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
            if done.returncode:
                print(f"error: a process with past {past} has failed:\n{done.stderr}", file=sys.stderr)
                return 1
            for name, found in json.loads(done.stdout.splitlines()[-1]).items():
                rows.append({
                    "past": past, "process": seed, "provider": name, "direction": "bwd",
                    "seq_len": args.seq_len, **found, "provider_version": get_provider(name).version(),
                    "torch": torch.__version__, "harness_commit": harness_commit(),
                    "device_name": machine.device_name, "gpu_uuid": machine.gpu_uuid,
                })  # fmt: skip
        write_rows(args.out, rows)
    print(*summary(rows), sep="\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
