"""Energy that the device has used: of a GPU's board by NVML's counter, of processors by RAPL."""

from __future__ import annotations

import os
from typing import Protocol

from lightning_bench.case import Device
from lightning_bench.machine.gpu import Gpu, cuda_gpu, open_board
from lightning_bench.measure.device.rapl import RaplEnergy

# NVML brings its counter up to date every tenth of a second at the latest: over this long it is right to 5 %.
LEAST_SECONDS = 2.0


class Energy(Protocol):
    """A counter of joules; `missing` says why there is none, and is "" if there is one."""

    missing: str

    def read_j(self) -> float | None:
        """Return the joules used since some time in the past, None without a counter."""


class NoEnergy:
    """No counter."""

    def __init__(self, missing: str) -> None:
        self.missing = missing

    def read_j(self) -> None:
        """Return None."""
        return


class NvmlEnergy:
    """The counter of a whole board, memory and fans included; it counts whoever uses the board."""

    missing = ""

    def __init__(self, gpu: Gpu) -> None:
        self._nvml, self._handle = open_board(gpu)

    def read_j(self) -> float:
        """Read the counter, which is in mJ."""
        return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3


def energy_per_token_j(
    before_j: float | None, after_j: float | None, seconds: float, tokens: int
) -> float | None:
    """Return the joules per token between two readings; None without a counter, and over too short a time."""
    if before_j is None or after_j is None or seconds < LEAST_SECONDS:
        return None
    return (after_j - before_j) / tokens


def make_energy(device: Device, gpu: Gpu | None = None) -> Energy:
    """Return the counter of the GPU that CUDA calls 0, or of `gpu`, or of the processors.

    One that is missing says why. A MIG slice has none of its own, nor has a part of the processors.
    """
    if device != "cuda":
        every = os.cpu_count() or 0
        mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else every
        if mine < every:
            return NoEnergy(
                f"RAPL counts all {every} processors, and this process may use {mine} of them: what runs on "
                "the others would count, too"
            )
        try:
            return RaplEnergy()
        except (OSError, ValueError) as error:
            return NoEnergy(f"this CPU counts no energy that can be read: RAPL: {error}")
    try:
        gpu = gpu or cuda_gpu()
        if gpu.mig != "off":
            return NoEnergy("a MIG slice has no counter of energy")
        energy = NvmlEnergy(gpu)
        energy.read_j()
    except Exception as error:  # any NVML error: energy is beside the figure, not the figure
        return NoEnergy(f"NVML counts no energy here ({type(error).__name__})")
    return energy
