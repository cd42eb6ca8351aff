"""A known amount of work for the GPU: where NVML cannot tell, its time shows whether others are served."""

from __future__ import annotations

import math

import torch

_BYTES = 2**27
_TARGET_MS = 2.0  # about the time slice of a GPU that serves several processes
_AHEAD = 0.25  # of the work goes first, so that the host stays ahead of what is timed


class GpuProbe:
    """Overwrites a buffer that no cache holds, as often as takes two milliseconds on an idle GPU."""

    def __init__(self) -> None:
        self._writes = 0

    def take(self) -> float | None:
        """Return how long the writes took, ms; None if there is no memory for the buffer."""
        try:
            buffer = torch.empty(_BYTES, dtype=torch.int8, device="cuda")
        except torch.OutOfMemoryError:
            return None
        if not self._writes:
            _timed(buffer, 8)
            self._writes = max(8, math.ceil(8 * _TARGET_MS / min(_timed(buffer, 8) for _ in range(5))))
        return _timed(buffer, self._writes)


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
