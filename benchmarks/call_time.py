"""What a call costs its caller: launches, host work and the first compilation.

Run on a GPU in the repository root:

    python benchmarks/call_time.py results/h200/call-time.csv [--providers lightning2 ...] [--peers ...]

At batch 4, heads 32, seq_len 512, head_dim 128 in bf16, for a forward pass under no_grad, a forward pass that
records gradients, a forward with a backward pass (autograd.grad), and the last once more under
``torch.autograd.set_multithreading_enabled(False)``: the difference is what it costs to hand the backward
pass to autograd's own thread.

- ``ready``: call on an idle GPU and wait for the result (``CudaTimer.call``);
- ``host``: time until the call returns, on average over 10 calls that are enqueued onto an idle GPU, whose
  queue they do not fill;
- ``back_to_back``: 200 calls and one wait, a call.

The rows of ``launch-free`` are of a ``torch.autograd.Function`` that saves q, k and v, allocates o and the
three gradients and launches nothing: what torch itself takes of a call in Python, less the launches.

``first_call`` is seconds of the first call minus those of the second, in a new process with an empty Triton
cache: compilation, tuning where a library tunes, and Triton's own start. Imports and the CUDA context come
before it. The CSV has a row a figure: the median over its samples with the 20th and 80th percentile, in ms or
in s as ``unit`` says.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rows import write_rows
from torch import Tensor

from lightning_bench.case import DTYPES, Device, Shape
from lightning_bench.machine import harness_commit
from lightning_bench.measure.device.call_watch import NoCallWatch
from lightning_bench.measure.device.timer import CudaTimer, Timer
from lightning_bench.measure.inputs import InputSet
from lightning_bench.providers import Inputs, Provider, get_provider

SHAPE = Shape(4, 32, 512, 128, 128, "bf16", "cuda")
COMPILED_DIMS = (64, 128, 256)
WARM_CALLS = 50
SAMPLES = 200
HOST_CALLS, HOST_SAMPLES = 10, 100
LONG_CALLS, LONG_SAMPLES = 200, 10
PROCESS_LIMIT_S = 300


class Nothing(torch.autograd.Function):
    """Saves, allocates and returns what linear attention does, and computes nothing."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return an o that nothing has written."""
        ctx.save_for_backward(q, k, v)
        return torch.empty_like(v)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        """Return gradients that nothing has written."""
        return tuple(torch.empty_like(x) for x in ctx.saved_tensors)


class LaunchFree(Provider):
    """``Nothing`` as a provider, for this script alone: its outputs are wrong."""

    name, label, family, package = "launch-free", "Nothing launched", "linear_decay", "torch"
    devices, dtypes = ("cuda", "cpu"), DTYPES

    def version(self) -> str:
        """None: it is part of this script."""
        return ""

    def build(self, inputs: Inputs) -> Callable[[], Tensor]:
        """Make the call."""
        return lambda: Nothing.apply(inputs.q, inputs.k, inputs.v)  # type: ignore[no-untyped-call]


def provider_of(name: str) -> Provider:
    """Return the provider of that name, including those of this script."""
    return LaunchFree() if name == LaunchFree.name else get_provider(name)


def mode_calls(provider: Provider, shape: Shape) -> dict[str, Callable[[], object]]:
    """Return the zero-argument call of each mode."""
    inputs = InputSet(shape, seed=0)
    shared, do = inputs.inputs(provider.layout), inputs.grad_output(provider.layout)
    leaves = (shared.q, shared.k, shared.v)
    forward = provider.build(Inputs(*leaves, shared.decay))

    def fwd_no_grad() -> object:
        with torch.no_grad():
            return forward()

    def fwd_bwd() -> object:
        return torch.autograd.grad(forward(), leaves, do)

    def fwd_bwd_one_thread() -> object:
        with torch.autograd.set_multithreading_enabled(False):
            return fwd_bwd()

    return {
        "fwd_no_grad": fwd_no_grad,
        "fwd_grad": forward,
        "fwd_bwd": fwd_bwd,
        "fwd_bwd_one_thread": fwd_bwd_one_thread,
    }


def per_call_ms(fn: Callable[[], object], calls: int, *, wait: bool, sync: Callable[[], None]) -> float:
    """Time of one call in a run of ``calls`` that starts on an idle device, with the last wait or without."""
    sync()
    begin = time.perf_counter_ns()
    for _ in range(calls):
        fn()
    if wait:
        sync()
    elapsed = time.perf_counter_ns() - begin
    sync()
    return elapsed / calls / 1e6


@dataclass(frozen=True)
class Figure:
    """What one row is about and its samples."""

    provider: str
    figure: str
    mode: str
    shape: Shape
    unit: str
    samples: list[float]

    def row(self) -> dict[str, object]:
        """Return the row of the CSV."""
        p20, median, p80 = np.percentile(self.samples, [20, 50, 80])
        cuda = torch.cuda.is_available()
        return {
            "provider": self.provider,
            "provider_version": provider_of(self.provider).version(),
            "figure": self.figure,
            "mode": self.mode,
            "batch": self.shape.batch,
            "heads": self.shape.heads,
            "seq_len": self.shape.seq_len,
            "head_dim": self.shape.head_dim,
            "dtype": self.shape.dtype,
            "unit": self.unit,
            "median": f"{median:.6f}",
            "p20": f"{p20:.6f}",
            "p80": f"{p80:.6f}",
            "samples": len(self.samples),
            "device_name": torch.cuda.get_device_name(0) if cuda else "cpu",
            "torch": torch.__version__,
            "triton": version("triton"),
            "python": sys.version.split()[0],
            "harness_commit": harness_commit(),
        }


def call_figures(name: str, shape: Shape, timer: Timer, sync: Callable[[], None]) -> list[Figure]:
    """``ready``, ``host`` and ``back_to_back`` of every mode of one provider, in ms."""
    provider = provider_of(name)
    provider.load()
    figures = []
    for mode, fn in mode_calls(provider, shape).items():
        for _ in range(WARM_CALLS):
            fn()
        samples = {
            "ready": [timer.call(fn, NoCallWatch()) for _ in range(SAMPLES)],
            "host": [per_call_ms(fn, HOST_CALLS, wait=False, sync=sync) for _ in range(HOST_SAMPLES)],
            "back_to_back": [per_call_ms(fn, LONG_CALLS, wait=True, sync=sync) for _ in range(LONG_SAMPLES)],
        }
        figures += [Figure(name, figure, mode, shape, "ms", taken) for figure, taken in samples.items()]
    return figures


def first_call_here(name: str, mode: str, head_dim: int, device: Device) -> float:
    """Seconds of this process's first call minus its second. The Triton cache must be empty."""
    import triton  # noqa: F401  its import is no compilation

    provider = provider_of(name)
    provider.load()
    dtype = SHAPE.dtype if device == "cuda" else "fp32"
    shape = Shape(SHAPE.batch, SHAPE.heads, SHAPE.seq_len, head_dim, head_dim, dtype, device)
    if device == "cpu":  # a dry run
        shape = Shape(1, 1, 16, head_dim, head_dim, dtype, device)
    sync = torch.cuda.synchronize if device == "cuda" else lambda: None
    fn = mode_calls(provider, shape)[mode]
    seconds = [per_call_ms(fn, 1, wait=True, sync=sync) / 1e3 for _ in range(2)]
    return seconds[0] - seconds[1]


def first_call_elsewhere(name: str, mode: str, head_dim: int, device: Device) -> float:
    """Seconds as ``first_call_here`` gives them in a new process with an empty Triton cache."""
    with tempfile.TemporaryDirectory() as cache:
        command = [
            sys.executable,
            "-W",
            "ignore",
            __file__,
            "--first-call",
            name,
            mode,
            str(head_dim),
            device,
        ]
        environment = {**os.environ, "TRITON_CACHE_DIR": cache}
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=PROCESS_LIMIT_S
        )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    seconds: float = json.loads(done.stdout.splitlines()[-1])
    return seconds


def first_call_figures(name: str, processes: int) -> Iterator[Figure]:
    """``first_call`` of a forward pass, and of a forward with a backward pass, at every head_dim."""
    for dim in COMPILED_DIMS:
        shape = Shape(SHAPE.batch, SHAPE.heads, SHAPE.seq_len, dim, dim, SHAPE.dtype, SHAPE.device)
        for mode in ("fwd_no_grad", "fwd_bwd"):
            samples = [first_call_elsewhere(name, mode, dim, "cuda") for _ in range(processes)]
            yield Figure(name, "first_call", mode, shape, "s", samples)


def all_figures(providers: list[str], peers: list[str], processes: int) -> Iterator[Figure]:
    """Every figure, one after the other as it is measured."""
    timer = CudaTimer()
    for name in (*providers, LaunchFree.name, *peers):
        yield from call_figures(name, SHAPE, timer, torch.cuda.synchronize)
    for name in providers:
        yield from first_call_figures(name, processes)


def main() -> None:
    """Measure, print, write the CSV."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, nargs="?", help="the CSV to write")
    parser.add_argument(
        "--providers", nargs="+", default=["lightning2"], help="as `lbench providers` names them"
    )
    parser.add_argument("--peers", nargs="+", default=[], help="providers whose first calls are not measured")
    parser.add_argument("--processes", type=int, default=3, help="first calls of a kind, each in its own")
    parser.add_argument("--first-call", nargs=4, metavar=("PROVIDER", "MODE", "HEAD_DIM", "DEVICE"),
                        help="measure one first call in this process and print its seconds")  # fmt: skip
    args = parser.parse_args()
    if args.first_call:
        name, mode, dim, device = args.first_call
        print(json.dumps(first_call_here(name, mode, int(dim), device)))
        return
    if args.out is None:
        parser.error("the CSV to write is missing")
    if not torch.cuda.is_available():
        raise SystemExit("needs a CUDA device")
    for name in (*args.providers, *args.peers):
        if reason := get_provider(name).unavailable("cuda"):
            raise SystemExit(f"{name}: {reason}")
    rows: list[dict[str, object]] = []
    for figure in all_figures(args.providers, args.peers, args.processes):
        row = figure.row()
        rows.append(row)
        print(
            *(row[name] for name in ("provider", "figure", "mode", "head_dim", "median", "unit")), flush=True
        )
        write_rows(args.out, rows)


if __name__ == "__main__":
    main()
