"""Slots on GPUs that no machine has, which Ray or SLURM gives to processes; their workers run on the CPU."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from lightning_bench.case import Device
from lightning_bench.errors import UsageError
from lightning_bench.machine.gpu import Gpu
from lightning_bench.machine.identity import digits
from lightning_bench.machine.place import Place
from lightning_bench.machine.place_lock import hold
from lightning_bench.record import read_records
from lightning_bench.run.executor import Fleet
from lightning_bench.run.lane import Crew
from lightning_bench.run.slot_host import SlotHost
from lightning_bench.run.slurm_executor import Host
from tests.support.forked_workers import fork_workers
from tests.support.gpu_visits import assert_one_at_a_time, visits
from tests.support.workspace import Workspace


class ForkingHost(SlotHost):
    """It forks its workers, from the server of a test that has the fixture `forked_workers`."""

    def __init__(self, device: Device, folder: Path, executor: str, count: int) -> None:
        fork_workers()
        super().__init__(device, folder, executor, count)


class FakeGpuHost(ForkingHost):
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


def keys_measured_on(fleet: Fleet, workspace: Workspace, suite: str) -> Counter[tuple[str, ...]]:
    """Sweep a suite of the zoo's `Visits` into a new file on a fleet of fake GPUs, and return the rows' keys.

    Each GPU is refused to others meanwhile, with the pid of its holder, and all rows are `ok`. Of two GPUs
    both are used, by one job at a time each.
    """
    workspace.out.unlink(missing_ok=True)
    for slot in fleet.slots:
        (device,) = slot.place.devices
        pid = slot.name.rpartition(" ")[2]
        with pytest.raises(UsageError, match=f"in use by pid {pid} "), hold({device: device}):
            pass
    with closing(fleet.executor(Crew("cpu"))) as executor:
        workspace.sweep(suite, executor=executor)
    rows = read_records(workspace.out)
    assert {row.status for row in rows} == {"ok"}
    assert {row.executor for row in rows} == {slot.executor for slot in fleet.slots}
    if len(fleet.slots) == 2:
        assert_one_at_a_time(
            visits(workspace.folder), {gpu_name(workspace.folder, number) for number in "01"}
        )
    return Counter(row.key for row in rows)
