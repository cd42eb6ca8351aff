"""The SM clock between two places of the stream: what it was while a sample ran, not when the host looked.

Two tiny kernels note cycles and nanoseconds on each multiprocessor, as nvbench's do on one.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from lightning_bench.machine.gpu import cuda_gpu, gpu_limits

THROTTLED_SHARE = 0.75
"""A sample is throttled if its clock is below this share of the highest, as nvbench has it."""

# Numbers of multiprocessors may have gaps.
_SLOTS_PER_SM = 2
_BEGIN, _END = 0, 1
_CYCLES, _NS = 0, 1


class SampleClock(NamedTuple):
    """The mean SM clock around a sample, and whether that is too low for the sample to count."""

    mhz: float
    throttled: bool


class StreamClock(Protocol):
    """Reads the clock between two places of the current stream."""

    def begin(self) -> None:
        """Enqueue the first look."""

    def end(self) -> None:
        """Enqueue the second look."""

    def read(self) -> SampleClock | None:
        """Return the clock between both, which the device has passed, or None if it is not known."""


class NoStreamClock:
    """Reads nothing: where Triton cannot compile."""

    def begin(self) -> None:
        """Do nothing."""

    def end(self) -> None:
        """Do nothing."""

    def read(self) -> None:
        """Return None."""
        return


class GpuStreamClock:
    """Reads it from cycles and ns of all multiprocessors. `highest_mhz` is None if no sample is throttled."""

    def __init__(self, highest_mhz: float | None, throttled_share: float = THROTTLED_SHARE) -> None:
        self._least_mhz = 0.0 if highest_mhz is None else throttled_share * highest_mhz
        self._programs = torch.cuda.get_device_properties(0).multi_processor_count
        self._stamps = torch.zeros((2, _SLOTS_PER_SM * self._programs, 2), dtype=torch.int64, device="cuda")

    def begin(self) -> None:
        """Enqueue the first look."""
        self._stamps.zero_()
        self._look(_BEGIN)

    def end(self) -> None:
        """Enqueue the second look."""
        self._look(_END)

    def read(self) -> SampleClock | None:
        """Return the clock between both, or None if no multiprocessor ran both kernels."""
        mhz = mean_mhz(self._stamps.cpu())
        return None if mhz is None else SampleClock(mhz, mhz < self._least_mhz)

    def _look(self, place: int) -> None:
        from lightning_bench.measure.device.stamp_kernel import stamp_kernel

        stamps = self._stamps[place]
        stamp_kernel[(self._programs,)](stamps, len(stamps), num_warps=1)


def mean_mhz(stamps: Tensor) -> float | None:
    """Return the median over multiprocessors of cycles per µs from the first stamps to the second.

    `stamps` [2, multiprocessors, 2] has cycles and ns; both are 0 where a kernel did not run.
    """
    both = (stamps[:, :, _NS] > 0).all(0)
    elapsed = (stamps[_END] - stamps[_BEGIN])[both].double()
    elapsed = elapsed[elapsed[:, _NS] > 0]
    if not len(elapsed):
        return None
    return float((1e3 * elapsed[:, _CYCLES] / elapsed[:, _NS]).median())


def make_stream_clock() -> GpuStreamClock | NoStreamClock:
    """Return the clock of the GPU, or one that reads nothing if its kernel cannot run here."""
    try:
        clock = GpuStreamClock(gpu_limits(cuda_gpu()).sm_clock_mhz)
        clock.begin()
        clock.end()
        clock.read()
    except Exception:  # no Triton, no C compiler for it, no such GPU in it: it is not the figure
        return NoStreamClock()
    return clock
