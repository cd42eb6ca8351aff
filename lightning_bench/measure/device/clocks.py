"""SM clock, power, temperature and throttle reasons, read between the samples through NVML."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lightning_bench.case import Device
from lightning_bench.machine.gpu import Gpu, cuda_gpu, open_board

# NVML clock event reasons. The power cap is the normal state of a busy GPU and is only recorded; the
# others mean that the machine could not run as it should, and make a case unstable.
_RECORDED = {0x4: "power cap"}
_UNSTABLE = {
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
# A case did not run at one speed if more than a fifth of its readings lie below this share of their median.
# Single dips follow a neighbour that drew more power; the samples' own interval and drift show whether they
# mattered.
_CLOCK_FLOOR = 0.85


@dataclass(frozen=True)
class ClockReading:
    """One reading of the sensors: MHz, W, °C and the NVML bit mask of clock event reasons."""

    sm_clock_mhz: float
    power_w: float
    temperature_c: float
    reasons: int


@dataclass(frozen=True)
class ClockFigures:
    """Median clock and power, highest temperature, throttle reasons seen, and why that is too much."""

    sm_clock_mhz: float | None
    power_w: float | None
    temperature_c: float | None
    throttle: str
    trouble: str | None


class Clocks(Protocol):
    """Where readings come from."""

    def read(self) -> ClockReading | None:
        """Take one reading, or return None if the device has no such sensors."""


class NoClocks:
    """No sensors: a CPU, or a GPU that NVML does not answer for."""

    def read(self) -> None:
        """Return None."""
        return


class NvmlClocks:
    """The sensors of a GPU; those of the GPU that it is cut from for a MIG slice, which has none.

    By default it is the GPU that CUDA calls 0 in this process, which is also the one that rows describe.
    """

    def __init__(self, gpu: Gpu | None = None) -> None:
        self._nvml, self._handle = open_board(gpu or cuda_gpu())

    def read(self) -> ClockReading:
        """Read SM clock, power, temperature and reasons now."""
        nvml, handle = self._nvml, self._handle
        return ClockReading(
            sm_clock_mhz=float(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
            power_w=nvml.nvmlDeviceGetPowerUsage(handle) / 1e3,
            temperature_c=float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
            reasons=int(nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)),
        )


def summarize_clocks(readings: list[ClockReading]) -> ClockFigures:
    """Return medians and the union of reasons; `trouble` says why the clock was not steady, if so."""
    if not readings:
        return ClockFigures(None, None, None, "", None)
    seen = 0
    for reading in readings:
        seen |= reading.reasons
    names = {**_RECORDED, **_UNSTABLE}
    throttle = ", ".join(name for bit, name in names.items() if seen & bit)
    clocks = [r.sm_clock_mhz for r in readings]
    median = statistics.median(clocks)
    trouble = None
    if bad := [name for bit, name in _UNSTABLE.items() if seen & bit]:
        trouble = f"the GPU throttled: {', '.join(bad)}"
    elif (low := float(np.percentile(clocks, 20))) < _CLOCK_FLOOR * median:
        trouble = f"the SM clock was below {low:.0f} MHz a fifth of the time, with a median of {median:.0f}"
    return ClockFigures(
        sm_clock_mhz=median,
        power_w=statistics.median(r.power_w for r in readings),
        temperature_c=max(r.temperature_c for r in readings),
        throttle=throttle,
        trouble=trouble,
    )


def make_clocks(device: Device) -> Clocks:
    """Return NVML's sensors of a GPU, or none: on a CPU, and where NVML fails."""
    if device != "cuda":
        return NoClocks()
    try:
        clocks = NvmlClocks()
        clocks.read()  # a virtual GPU may have a handle and no sensors
    except Exception:  # any NVML error: sensors are evidence beside the figure, not the figure
        return NoClocks()
    return clocks
