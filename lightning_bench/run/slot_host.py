"""A slot on another host: what a process there does for the driver, whoever started it."""

from __future__ import annotations

import os
import platform
import queue
import time
from contextlib import ExitStack
from multiprocessing import resource_tracker
from pathlib import Path

from lightning_bench.case import Device
from lightning_bench.errors import UsageError
from lightning_bench.machine import describe_machine
from lightning_bench.machine.gpu import usable_gpus
from lightning_bench.machine.place import Place
from lightning_bench.machine.place_lock import hold
from lightning_bench.run.executor import CaseMeasured, Slot, SlotEvent, Unit
from lightning_bench.run.lane import Crew
from lightning_bench.run.slot_thread import Happened, SlotThread

# Whoever ends this process, as `scancel` does, may have ended its worker a moment before; nobody is to blame.
_GRACE_S = 2.0


class SlotHost:
    """The first GPU that this process may use, or its processors, locked on this host; and a lane on it.

    `folder` is where the driver was started: names of provider files are relative to it. Raise UsageError if
    it does not exist here, if there is no GPU, or if another process has it.
    """

    def __init__(self, device: Device, folder: Path, executor: str) -> None:
        host = platform.node()
        if not folder.is_dir():
            raise UsageError(
                f"{host} has no folder {folder}: start the sweep in a folder that all hosts share"
            )
        os.chdir(folder)
        gpu = usable_gpus()[0] if device == "cuda" else None
        name = f"{host} {gpu.uuid[:12]}" if gpu else f"{host} pid {os.getpid()}"
        self.slot = Slot(name, describe_machine(device, gpu=gpu), Place(gpu), executor)
        self._happened: Happened = queue.SimpleQueue()
        self._thread: SlotThread | None = None
        self._locks = ExitStack()
        self._locks.enter_context(hold(dict.fromkeys(self.slot.place.devices, name)))
        resource_tracker.ensure_running()

    def describe(self) -> Slot:
        """Return the slot."""
        return self.slot

    def begin(self, crew: Crew) -> None:
        """Measure with such workers from now on."""
        self.end()
        self._thread = SlotThread(self.slot, crew, self._happened)

    def submit(self, unit: Unit) -> None:
        """Give the slot something to do."""
        assert self._thread is not None
        self._thread.units.put(unit)

    def poll(self, seconds: float) -> list[SlotEvent]:
        """Return what has happened since the last call; wait so long for something. Raise its error."""
        found: list[SlotEvent] = []
        try:
            event = self._happened.get(timeout=seconds)
            while True:
                if isinstance(event, BaseException):
                    raise event
                found.append(event)
                event = self._happened.get_nowait()
        except queue.Empty:
            if any(map(_blames, found)):
                time.sleep(_GRACE_S)
            return found

    def end(self) -> None:
        """Kill what still runs; the slot stays locked."""
        if self._thread is not None:
            self._thread.abandon()
            self._thread.join()
            self._thread = None
            self.poll(0.0)


def _blames(event: SlotEvent) -> bool:
    return isinstance(event, CaseMeasured) and event.outcomes[-1].status == "crashed"
