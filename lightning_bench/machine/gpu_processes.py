"""Other processes on our GPU, as NVML lists them, and how much of it each of them used.

NVML gives process ids of the host. In a container ours may be another: then it is the one that has appeared
while this process made its CUDA context. A container may also hide others from NVML, and MIG slices have no
figures of use: then NVML alone does not tell whether somebody else computes (`tells` is False).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_bench.machine.gpu import Gpu, open_device

# PROC_PID_INIT_INO of Linux: the inode of the namespace that sees every process.
_LATE_S = 1.0  # a sample of use is of up to a second
_HOST_NAMESPACE = "pid:[4026531836]"


@dataclass(frozen=True)
class GpuNeighbours:
    """Foreign processes with a context on the GPU, and the share of its SMs, %, of those that computed."""

    listed: frozenset[int] = frozenset()
    computed: dict[int, int] = field(default_factory=dict)

    def and_later(self, later: GpuNeighbours) -> GpuNeighbours:
        """Return what was seen at either time; of a process the larger share."""
        shares = {
            pid: max(seen.computed.get(pid, 0) for seen in (self, later))
            for pid in (*self.computed, *later.computed)
        }
        return GpuNeighbours(self.listed | later.listed, shares)

    def without(self, pids: Collection[int]) -> GpuNeighbours:
        """Return the others."""
        computed = {pid: share for pid, share in self.computed.items() if pid not in pids}
        return GpuNeighbours(self.listed.difference(pids), computed)

    def __str__(self) -> str:
        if not self.listed and not self.computed:
            return ""
        parts = [f"pid {pid} computed ({share} % of the SMs)" for pid, share in sorted(self.computed.items())]
        if idle := len(self.listed - self.computed.keys()):
            parts.append(f"{idle} held a context and computed nothing")
        return "; ".join(parts)


class GpuProcesses:
    """Looks at the processes of one GPU. Make it before this process has a CUDA context.

    Raises what `open_device` does if NVML does not answer for the GPU.
    """

    def __init__(self, gpu: Gpu, namespace: Path = Path("/proc/self/ns/pid")) -> None:
        self._nvml, self._handle = open_device(gpu)
        self._before = self._listed()
        self._own: frozenset[int] = frozenset()
        self._sees_all = _is_host(namespace)
        self._counts_use = True
        self._seen_us = 0

    @property
    def tells(self) -> bool:
        """Whether NVML shows every process on the GPU and what each uses, ours among them."""
        return self._sees_all and self._counts_use and bool(self._own)

    def forget(self) -> None:
        """Let use until now be nobody's: workers of the same parent take turns.

        Where their ids are not known, neither does the next second count, of which a part may be before.
        """
        self._used()
        self._seen_us = max(self._seen_us, int((time.time() + (0.0 if self._sees_all else _LATE_S)) * 1e6))

    def note_context(self, kin: Collection[int]) -> None:
        """Learn which ids are ours, now that this process has a context; `kin` are ours in any case."""
        listed = self._listed()
        ours = listed & {os.getpid(), *kin}
        appeared = listed - self._before
        if not ours and len(appeared) == 1:
            ours = appeared  # the host knows this process by another id
        self._own = ours
        self.forget()

    def read(self) -> GpuNeighbours:
        """Return who is on the GPU now, and who computed since the last reading; kin may be among them.

        Nobody if it is not known which of the listed processes we are.
        """
        if not self._own:
            return GpuNeighbours()
        ours = {os.getpid(), *self._own}
        used = {pid: share for pid, share in self._used().items() if pid not in ours and share > 0}
        return GpuNeighbours(frozenset(self._listed() - ours), used)

    def everyone(self) -> GpuNeighbours:
        """Return who is on the GPU and has computed in the last seconds, for a process without a context."""
        return GpuNeighbours(self._listed(), {pid: share for pid, share in self._used().items() if share > 0})

    def _listed(self) -> frozenset[int]:
        nvml = self._nvml
        found: set[int] = set()
        for list_of in (
            nvml.nvmlDeviceGetComputeRunningProcesses,
            nvml.nvmlDeviceGetGraphicsRunningProcesses,
        ):
            with contextlib.suppress(nvml.NVMLError):
                found |= {int(process.pid) for process in list_of(self._handle)}
        return frozenset(found)

    def _used(self) -> dict[int, int]:
        """Return the largest share of the SMs that each process has had in NVML's samples since the last."""
        nvml = self._nvml
        try:
            samples: list[Any] = nvml.nvmlDeviceGetProcessUtilization(self._handle, self._seen_us)
        except nvml.NVMLError as error:
            # No sample is there while nobody computes.
            self._counts_use = error.value in (nvml.NVML_ERROR_NOT_FOUND, nvml.NVML_SUCCESS)
            return {}
        self._counts_use = True
        shares: dict[int, int] = {}
        newest = self._seen_us
        for sample in samples:
            pid, share = int(sample.pid), max(int(sample.smUtil), int(sample.memUtil))
            # Drivers leave places of the list unfilled.
            if pid > 0 and share <= 100 and self._seen_us < sample.timeStamp < _soon_us():
                newest = max(newest, int(sample.timeStamp))
                shares[pid] = max(shares.get(pid, 0), share)
        self._seen_us = newest
        return shares


def _soon_us() -> float:
    return (time.time() + 60.0) * 1e6


def _is_host(namespace: Path) -> bool:
    try:
        return os.readlink(namespace) == _HOST_NAMESPACE
    except OSError:
        return False
