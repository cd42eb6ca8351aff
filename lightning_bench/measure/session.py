"""What lives as long as a worker process: its timer, its sensors, its memory meter and its ceilings."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from dataclasses import replace

import torch

from lightning_bench.case import Device, Dtype
from lightning_bench.families.work import Work
from lightning_bench.machine.ceilings import Ceilings
from lightning_bench.machine.mix import EVEN, Mix
from lightning_bench.measure.device.clocks import Clocks, make_clocks
from lightning_bench.measure.device.energy import Energy, make_energy
from lightning_bench.measure.device.gpu_probe import GpuProbe
from lightning_bench.measure.device.memory import MIB, Meter, make_meter
from lightning_bench.measure.device.mix_stream import mix_gbps
from lightning_bench.measure.device.peaks import measure_ceilings
from lightning_bench.measure.device.timer import Timer, make_timer
from lightning_bench.measure.foreign import Foreign, gpu_processes, make_foreign
from lightning_bench.measure.guard import GUARD
from lightning_bench.providers import load_error

# Workspaces of cuBLAS and the like, which stay with the process.
_SPARE_BYTES = 2**28
_CEILINGS_TRIES, _AGAIN = 2, 5


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
        self.energy: Energy = make_energy(device)
        self._ceilings: dict[Dtype, Ceilings] = {}
        self._mix_gbps: dict[Mix, float] = {}
        self._ceilings_trouble: dict[Dtype | Mix, str | None] = {}

    def ceilings(self, dtype: Dtype, mix: Mix) -> Ceilings:
        """Return what `measure_ceilings` has measured for rows of this dtype and mix.

        The bandwidth is that of a copy on a CPU, and where Triton cannot compile.
        """
        copied = self._ceilings[dtype]
        if mix not in self._mix_gbps:
            return copied
        gbps = self._mix_gbps[mix]
        return replace(copied, gbps=max(gbps, copied.gbps) if mix == EVEN else gbps, mix=mix)

    def ceilings_trouble(self, dtype: Dtype, mix: Mix) -> str | None:
        """Return why these ceilings may be lower than what the device reaches, or None."""
        trouble = self._ceilings_trouble.get(dtype) or self._ceilings_trouble.get(mix)
        return f"its ceilings may be too low: {trouble}" if trouble else None

    def measure_ceilings(self, dtype: Dtype, mixes: Iterable[Mix]) -> None:
        """Measure what of these was not yet measured undisturbed; the best of all times counts.

        Call it in a job before its cases: beside foreign load it is done again, here and in the next job.
        """
        wanted: list[Dtype | Mix] = [dtype]
        if self.device == "cuda":
            wanted += dict.fromkeys(mixes)
        due = [each for each in wanted if self._ceilings_trouble.get(each, "not measured") is not None]
        if not due:
            return
        for number in range(_CEILINGS_TRIES):
            key = f"ceilings of {', '.join(map(str, due))}, {number}"
            self.foreign.begins(key)
            for each in due:
                self._measure_ceiling(each)
            self.foreign.ends(key)
            trouble = self.foreign.figures(key).trouble
            self._ceilings_trouble |= dict.fromkeys(due, trouble)
            if trouble is None:
                break
        self.release()

    def ceilings_of(self, work: Work, median_ms: float) -> Ceilings:
        """Return the ceilings for a case; on a CPU, measured again if its time is impossible beside them.

        What else ran there while they were measured may have left them far too low. The best of all counts.
        """
        dtype = work.shape.dtype
        for _ in range(_AGAIN if self.device == "cpu" else 0):
            if work.impossible(median_ms, self.ceilings(dtype, work.mix)) is None:
                break
            self._measure_ceiling(dtype)
        return self.ceilings(dtype, work.mix)

    def _measure_ceiling(self, of: Dtype | Mix) -> None:
        if isinstance(of, Mix):
            if (gbps := mix_gbps(of)) is not None:
                self._mix_gbps[of] = max(gbps, self._mix_gbps.get(of, gbps))
        else:
            found = measure_ceilings(self.device, of)
            self._ceilings[of] = found.or_better(self._ceilings.get(of, found))

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
