"""What lives as long as a worker process: its timer, its sensors, its memory meter and its ceilings."""

from __future__ import annotations

import gc

import torch

from lightning_bench.case import Device, Dtype
from lightning_bench.machine.ceilings import Ceilings
from lightning_bench.measure.device.clocks import Clocks, make_clocks
from lightning_bench.measure.device.gpu_probe import GpuProbe
from lightning_bench.measure.device.memory import MIB, Meter, make_meter
from lightning_bench.measure.device.peaks import measure_ceilings
from lightning_bench.measure.device.timer import Timer, make_timer
from lightning_bench.measure.foreign import Foreign, gpu_processes, make_foreign
from lightning_bench.measure.guard import GUARD
from lightning_bench.providers import load_error

# Workspaces of cuBLAS and the like, which stay with the process.
_SPARE_BYTES = 2**28
_CEILINGS_TRIES = 2


class PoisonedError(Exception):
    """The CUDA context is lost, or memory is: what this process measures from now on cannot be trusted."""


class Session:
    """One device, measured on by one process; its instruments and ceilings are kept from job to job."""

    def __init__(self, device: Device) -> None:
        self.device: Device = device
        GUARD.keep()
        gpu = gpu_processes(device)  # before CUDA starts, so that ours is the one that then appears
        self.timer: Timer = make_timer(device)
        self.foreign: Foreign = make_foreign(device, gpu, GpuProbe() if device == "cuda" else None)
        self.clocks: Clocks = make_clocks(device)
        self.meter: Meter = make_meter(device)
        self._ceilings: dict[Dtype, Ceilings] = {}
        self._ceilings_trouble: dict[Dtype, str | None] = {}

    def ceilings(self, dtype: Dtype) -> Ceilings:
        """Return the ceilings that rows of this dtype are compared with, measured once per dtype."""
        if dtype not in self._ceilings:
            self.measure_ceilings(dtype)
        return self._ceilings[dtype]

    def ceilings_trouble(self, dtype: Dtype) -> str | None:
        """Return why the ceilings of this dtype may be lower than what the device reaches, or None."""
        trouble = self._ceilings_trouble.get(dtype)
        return f"its ceilings may be too low: {trouble}" if trouble else None

    def measure_ceilings(self, dtype: Dtype) -> None:
        """Measure the ceilings of a dtype unless that was done undisturbed; the best of all times counts.

        Call it in a job before its cases: beside foreign load it is done again, here and in the next job.
        """
        if dtype in self._ceilings and self._ceilings_trouble[dtype] is None:
            return
        for number in range(_CEILINGS_TRIES):
            key = f"ceilings of {dtype}, {number}"
            self.foreign.begins(key)
            found = measure_ceilings(self.device, dtype)
            self.foreign.ends(key)
            self._ceilings[dtype] = found.or_better(self._ceilings.get(dtype, found))
            self._ceilings_trouble[dtype] = self.foreign.figures(key).trouble
            if self._ceilings_trouble[dtype] is None:
                break
        self.release()

    def release(self) -> None:
        """Free what jobs have left in caches. Raise PoisonedError if CUDA does not answer."""
        self.timer.release()
        gc.collect()
        if self.device == "cuda":
            try:
                torch.cuda.empty_cache()
            except RuntimeError as error:
                raise PoisonedError(load_error(error)) from error

    def assert_clean(self, own_bytes: int) -> None:
        """Raise PoisonedError if more than a job's own tensors is held: an earlier case did not let go."""
        if self.device == "cuda":
            held = torch.cuda.memory_allocated() - own_bytes
            if held > _SPARE_BYTES:
                raise PoisonedError(f"{held / MIB:.0f} MiB are still held by a case that has ended")

    def assert_alive(self, error: BaseException) -> None:
        """Raise PoisonedError if the device is lost after what a provider has raised."""
        if self.device != "cuda":
            return
        try:
            torch.cuda.synchronize()
        except RuntimeError:
            raise PoisonedError(load_error(error)) from error
