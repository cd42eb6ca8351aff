"""Meters: the memory that a call allocates, on each device. Rows are built on the `Meter` protocol."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from lightning_bench.case import Device

MIB = 2.0**20


@dataclass(frozen=True)
class Peak:
    """Bytes of a call: held before it, its peak above that, what it left, and reserved (None on a CPU)."""

    before: int
    peak: int
    held: int
    reserved: int | None


class Meter(Protocol):
    """Runs a call and reports what it allocated."""

    def settle(self) -> int:
        """Drop caches, so that only live tensors count. Return the bytes allocated now."""

    def measure(self, fn: Callable[[], Any]) -> tuple[Any, Peak]:
        """Return the call's result (which the caller keeps alive) and its memory."""


class CudaMeter:
    """torch's caching allocator: exact, because every kernel here allocates through it."""

    def settle(self) -> int:
        """Free cached blocks and cuBLAS workspaces of earlier calls. Return the bytes of live tensors."""
        gc.collect()
        torch.cuda.synchronize()
        clear = getattr(torch._C, "_cuda_clearCublasWorkspaces", None)
        if clear is not None:
            clear()
        torch.cuda.empty_cache()
        return torch.cuda.memory_allocated()

    def measure(self, fn: Callable[[], Any]) -> tuple[Any, Peak]:
        """Run the call; its peak is that of `torch.cuda.max_memory_allocated`."""
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
        """Return 0: the CPU allocator keeps no total, and figures are relative to the start of the call."""
        gc.collect()
        return 0

    def measure(self, fn: Callable[[], Any]) -> tuple[Any, Peak]:
        """Run the call; its peak is the highest running sum of allocations less frees."""
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


def make_meter(device: Device) -> CudaMeter | CpuMeter:
    """Return the meter of a device."""
    return CudaMeter() if device == "cuda" else CpuMeter()
