"""SM clock, power, temperature and throttle reasons, read beside the samples through NVML."""

from __future__ import annotations

import os
import statistics
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

# NVML clock event reasons. The power cap is the normal state of a busy GPU and is only recorded; the
# others mean that the machine could not run as it should, and make a case unstable.
_RECORDED = {0x4: "power cap"}
_UNSTABLE = {
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
# A case did not run at one speed where more than a fifth of the readings beside it lie below this share of
# their median. Single dips are the wake of a neighbour that drew more power; the samples' own interval and
# drift show whether they mattered.
_CLOCK_FLOOR = 0.85


@dataclass(frozen=True)
class Reading:
    """One look at the device: MHz, W, °C and the NVML bit mask of clock event reasons."""

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

    def read(self) -> Reading | None:
        """One reading, or None where the device has no such sensors."""


class NoClocks:
    """A CPU: nothing to read."""

    def read(self) -> None:
        """Nothing."""
        return


class NvmlClocks:
    """The first visible NVIDIA GPU."""

    def __init__(self) -> None:
        import pynvml

        self._nvml: Any = pynvml
        pynvml.nvmlInit()
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
        if visible.isdigit():
            self._handle = pynvml.nvmlDeviceGetHandleByIndex(int(visible))
        else:
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(visible.encode())

    def read(self) -> Reading:
        """SM clock, power, temperature and reasons now."""
        nvml, handle = self._nvml, self._handle
        return Reading(
            sm_clock_mhz=float(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
            power_w=nvml.nvmlDeviceGetPowerUsage(handle) / 1e3,
            temperature_c=float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
            reasons=int(nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)),
        )


def summarize_clocks(readings: list[Reading]) -> ClockFigures:
    """Medians and the union of reasons; ``trouble`` where the device throttled or changed its clock."""
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


def make_clocks(device: str) -> Clocks:
    """NVML on a GPU, nothing on a CPU. Where NVML fails, the case is measured without readings."""
    if device != "cuda":
        return NoClocks()
    try:
        return NvmlClocks()
    except Exception:  # any NVML error: sensors are evidence beside the figure, not the figure
        return NoClocks()
