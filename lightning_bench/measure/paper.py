"""Protocol `paper`: what the published scripts measured, faults included. Never the default.

Speed is the mean of triton's `do_bench` (25 ms of warm-up, 100 ms of repeats) with gradients enabled;
the backward call is `o.backward(do, retain_graph=True)`, so each repeat also adds its gradients to the
previous ones. Memory is the mean over 20 repeats of the peak since the last reset, inputs included;
the first backward repeat finds no gradients yet, which is why the mean lies between two values.
Inputs are [b, h, n, d]; libraries that want [b, n, h, d] get a transposed view, as in the scripts. The
slopes (4·heads bytes) are held for every provider, as in the scripts; families that no such script
measured get their other inputs, with gradients, in the same way.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_bench.case import Direction
from lightning_bench.families import QKV, Spec, definition_of
from lightning_bench.measure.device.memory import MIB
from lightning_bench.measure.inputs import InputSet
from lightning_bench.measure.job import CaseEnded
from lightning_bench.providers.registry.base import Inputs, Provider

WARMUP_MS = 25
REPEAT_MS = 100
MEMORY_REPEATS = 20


def build_call(provider: Provider, inputs: InputSet, direction: Direction) -> Callable[[], object]:
    """Build the call of the published scripts: gradients enabled, backward accumulating into leaves.

    It owns copies of all that the scripts held, and of nothing else, so that memory can be counted.
    """
    if definition_of(provider.family).updates:
        raise CaseEnded("unsupported", "protocol paper has no pool of states that a call updates")
    inputs = inputs.of(provider.family)
    decay = inputs.decay.clone()
    transposed = provider.layout == "bnhd"
    specs = definition_of(provider.family).inputs

    def view(x: Tensor, spec: Spec = QKV["q"]) -> Tensor:
        return x.transpose(spec.axes.index("h"), spec.axes.index("n")) if transposed and spec.turns else x

    views = {
        name: view(x.detach().clone().requires_grad_(name in inputs.gradients), specs.get(name, QKV["q"]))
        for name, x in {"q": inputs.q, "k": inputs.k, "v": inputs.v, **inputs.more}.items()
    }
    more = {name: views[name] for name in inputs.more}
    forward_of_views = provider.build(Inputs(views["q"], views["k"], views["v"], decay, more))

    def forward() -> Tensor:
        return view(forward_of_views())

    if direction == "fwd":
        return _Held(forward, decay)
    do = inputs.do.clone()
    if direction == "fwd_bwd":
        return _Held(lambda: forward().backward(do), decay)
    output = forward()
    return _Held(lambda: output.backward(do, retain_graph=True), decay)


@dataclass(frozen=True)
class _Held:
    """A call and the slopes, which the scripts held whether or not the provider reads them."""

    fn: Callable[[], object]
    decay: Tensor

    def __call__(self) -> object:
        return self.fn()


def mean_ms(fn: Callable[[], object], device: str) -> float:
    """Return the mean time in ms as the scripts took it; on a CPU by the same loop with a monotonic clock."""
    if device == "cuda":
        from triton.testing import do_bench

        return float(do_bench(fn, warmup=WARMUP_MS, rep=REPEAT_MS, return_mode="mean"))

    def repeat(budget_ms: float) -> list[float]:
        times: list[float] = []
        while not times or sum(times) < budget_ms:
            begin = time.perf_counter_ns()
            fn()
            times.append((time.perf_counter_ns() - begin) / 1e6)
        return times

    repeat(WARMUP_MS)
    times = repeat(REPEAT_MS)
    return sum(times) / len(times)


def mean_peak_mib(fn: Callable[[], object], base_bytes: int) -> float:
    """Return the mean over 20 repeats of the peak since the last reset, in MiB.

    `base_bytes`, which the harness itself holds, do not count.
    """
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    peaks = []
    for _ in range(MEMORY_REPEATS):
        fn()
        peaks.append((torch.cuda.max_memory_allocated() - base_bytes) / MIB)
        torch.cuda.reset_peak_memory_stats()
    return sum(peaks) / len(peaks)
