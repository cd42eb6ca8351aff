"""A known amount of work for the GPU: where NVML cannot tell, its time shows whether others are served."""

from __future__ import annotations

import math

import torch

_BYTES = 2**27
_TARGET_MS = 8.0  # several time slices: an H200 that two processes use changes after about 2.4 ms
_SHORT = 8  # writes, a fraction of a slice
_AHEAD = 0.25  # of the work goes first, so that the host stays ahead of what is timed


class GpuProbe:
    """Overwrites a buffer that no cache holds, as often as takes eight milliseconds if nobody else is served.

    How long that is, is known from bursts that are over before the slice of this process is.
    """

    def __init__(self) -> None:
        self._write_ms = math.inf

    def take(self) -> float | None:
        """Return how many times longer the writes took than by themselves; None without memory for them."""
        try:
            buffer = torch.empty(_BYTES, dtype=torch.int8, device="cuda")
        except torch.OutOfMemoryError:
            return None
        if self._write_ms == math.inf:
            _timed(buffer, _SHORT)
            self._write_ms = min(_timed(buffer, _SHORT) for _ in range(5)) / _SHORT
        writes = math.ceil(_TARGET_MS / self._write_ms)
        return _timed(buffer, writes) / (writes * self._write_ms)


def _timed(buffer: torch.Tensor, writes: int) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    for _ in range(math.ceil(_AHEAD * writes)):
        buffer.zero_()
    start.record()
    for _ in range(writes):
        buffer.zero_()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))
