"""Clocks of what follows one another without waiting: marks between the phases of queued work."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Protocol

import torch

from lightning_bench.case import Device

# Taken before any provider is imported, which could replace them.
_now_ns = time.perf_counter_ns


class LapClock(Protocol):
    """Notes moments of the device's work; milliseconds."""

    def mark(self) -> None:
        """Note the moment at which the device gets here."""

    def laps(self) -> list[float]:
        """Wait for the last mark. Return the times between one mark and the next, and forget them."""


class CpuLapClock:
    """A CPU works while it is asked to."""

    def __init__(self) -> None:
        self._marks: list[int] = []

    def mark(self) -> None:
        """Read the monotonic clock."""
        self._marks.append(_now_ns())

    def laps(self) -> list[float]:
        """Return the times between marks, ms."""
        times = [(after - before) / 1e6 for before, after in pairwise(self._marks)]
        self._marks.clear()
        return times


class CudaLapClock:
    """Events in the current stream: the host runs ahead, as it does in training."""

    def __init__(self) -> None:
        self._marks: list[torch.cuda.Event] = []

    def mark(self) -> None:
        """Record an event."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._marks.append(event)

    def laps(self) -> list[float]:
        """Wait for the device and return the times between events, ms."""
        torch.cuda.synchronize()
        times = [before.elapsed_time(after) for before, after in pairwise(self._marks)]
        self._marks.clear()
        return times


def make_lap_clock(device: Device) -> LapClock:
    """Return the clock of a device."""
    return CudaLapClock() if device == "cuda" else CpuLapClock()


def in_phases(laps: list[float], phases: int) -> list[list[float]]:
    """Return laps in parts of so many."""
    return [laps[at : at + phases] for at in range(0, len(laps), phases)]
