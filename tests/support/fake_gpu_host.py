"""A slot on a GPU that no machine has, which Ray or SLURM gives this process; its workers run on the CPU."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from lightning_bench.case import Device
from lightning_bench.machine.gpu import Gpu
from lightning_bench.machine.identity import digits
from lightning_bench.machine.place import Place
from lightning_bench.machine.place_lock import hold
from lightning_bench.run.slot_host import SlotHost
from lightning_bench.run.slurm_executor import Host


class FakeGpuHost(SlotHost):
    """Its GPU is named after the folder, too, which no other checkout's tests have."""

    def __init__(self, device: Device, folder: Path, executor: str, count: int) -> None:
        super().__init__("cpu", folder, executor, count)
        name = gpu_name(folder, os.environ["CUDA_VISIBLE_DEVICES"])
        place = Place(Gpu("NVIDIA H200", "9.0", "570.1", name, name))
        self.slot = replace(self.slot, name=f"{name} pid {os.getpid()}", place=place)
        self._locks.enter_context(hold(dict.fromkeys(place.devices, name)))


class FakeGpuTask(Host):
    """What a task of SLURM runs with such a slot."""

    slot_host = FakeGpuHost


def gpu_name(folder: Path, number: str) -> str:
    """Return the UUID of the GPU of this number in the tests of a folder."""
    return f"GPU-{number}-{digits(str(folder))}"
