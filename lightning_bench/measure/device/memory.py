"""Memory of a call: what it adds beyond inputs that are there already, and what it keeps for backward."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from lightning_bench.case import Device, Direction
from lightning_bench.measure.inputs import InputSet
from lightning_bench.providers.registry.base import Provider

MIB = 2.0**20


@dataclass(frozen=True)
class Peak:
    """Bytes: what was held before a call, its highest point above that, what it left held, reserved."""

    before: int
    peak: int
    held: int
    reserved: int | None


class Meter(Protocol):
    """Runs a call and says what it allocated."""

    def settle(self) -> int:
        """Drop caches that are nobody's, so that only live tensors count; bytes allocated now."""

    def measure(self, fn: Callable[[], Any]) -> tuple[Any, Peak]:
        """The call's result (kept alive by the caller) and its memory."""


class CudaMeter:
    """torch's caching allocator: exact, because every kernel here allocates through it."""

    def settle(self) -> int:
        """Free cached blocks and cuBLAS workspaces of earlier calls."""
        gc.collect()
        torch.cuda.synchronize()
        clear = getattr(torch._C, "_cuda_clearCublasWorkspaces", None)
        if clear is not None:
            clear()
        torch.cuda.empty_cache()
        return torch.cuda.memory_allocated()

    def measure(self, fn: Callable[[], Any]) -> tuple[Any, Peak]:
        """Peak of ``max_memory_allocated`` during the call."""
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        result = fn()
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated()
        held = torch.cuda.memory_allocated()
        return result, Peak(before, peak - before, held - before, torch.cuda.max_memory_reserved())


class CpuMeter:
    """torch's profiler: it reports each allocation of the CPU allocator, so the peak is exact there too."""

    def settle(self) -> int:
        """The CPU allocator keeps no total; figures are relative to the start of the call."""
        gc.collect()
        return 0

    def measure(self, fn: Callable[[], Any]) -> tuple[Any, Peak]:
        """Highest running sum of allocations less frees during the call."""
        with torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, acc_events=True
        ) as profile:
            result = fn()
        kineto: Any = profile.profiler
        events = [e for e in kineto.kineto_results.events() if e.name() == "[memory]"]
        events.sort(key=lambda e: e.start_ns())
        total = peak = 0
        for event in events:
            total += event.nbytes()
            peak = max(peak, total)
        return result, Peak(0, peak, total, None)


def call_memory(
    provider: Provider, inputs: InputSet, direction: Direction, meter: Meter
) -> dict[str, float | None]:
    """Fields of a Record, MiB: ``extra_mib``, ``peak_mib``, ``saved_mib`` and ``reserved_mib``.

    ``extra_mib`` is the peak that the call adds to what is held before it. ``peak_mib`` adds what is held:
    q, k, v, the slopes, a family's other inputs, and for a backward pass do, the output and what the forward
    pass saved. ``saved_mib`` is what the forward pass leaves held besides its output (blank for ``fwd``,
    which runs under no_grad). A graph is used up by its backward pass, as in training.
    """
    inputs = inputs.of(provider.family)
    given = inputs.inputs(provider.layout)
    do = inputs.grad_output(provider.layout)
    leaves = [given[name] for name in inputs.gradients]
    forward = provider.build(given)
    held = [given.q, given.k, given.v, given.decay, *given.more.values()]
    held += [do] if direction != "fwd" else []
    input_bytes = sum(x.numel() * x.element_size() for x in held)
    meter.settle()
    saved: float | None = None
    before = 0
    if direction == "fwd":
        with torch.no_grad():
            _, peak = meter.measure(forward)
    else:
        output, forward_peak = meter.measure(forward)
        output_bytes = output.numel() * output.element_size()
        saved = max(0, forward_peak.held - output_bytes) / MIB
        if direction == "bwd":
            before = forward_peak.held
            _, peak = meter.measure(lambda: torch.autograd.grad(output, leaves, do))
        else:
            del output
            meter.settle()
            _, peak = meter.measure(lambda: torch.autograd.grad(forward(), leaves, do))
    return {
        "extra_mib": peak.peak / MIB,
        "peak_mib": (input_bytes + before + peak.peak) / MIB,
        "saved_mib": saved,
        "reserved_mib": None if peak.reserved is None else peak.reserved / MIB,
    }


def make_meter(device: Device) -> CudaMeter | CpuMeter:
    """The meter of a device."""
    return CudaMeter() if device == "cuda" else CpuMeter()
