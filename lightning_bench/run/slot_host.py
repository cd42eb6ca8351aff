"""A slot on another host: what a process there does for the driver, whoever started it."""

from __future__ import annotations

import os
import platform
import queue
import time
from contextlib import ExitStack
from pathlib import Path

from lightning_bench.case import Device
from lightning_bench.errors import UsageError
from lightning_bench.machine import describe_machine
from lightning_bench.machine.gpu import usable_gpus
from lightning_bench.machine.place import Place
from lightning_bench.machine.place_lock import hold
from lightning_bench.run.executor import (
    CaseEntered,
    CaseMeasured,
    JobFinished,
    Slot,
    SlotEvent,
    SlotLost,
    Unit,
)
from lightning_bench.run.lane import Crew
from lightning_bench.run.leak_tracker import start_tracker
from lightning_bench.run.slot_thread import Happened, SlotThread

_GATHER_S = 0.25
_PHASES_PER_S = 20  # of all slots together: more than anybody reads
# Whoever ends this process, as `scancel` does, may have ended its worker a moment before; nobody is to blame.
_GRACE_S = 2.0


def report_pause_s(count: int) -> float:
    """Return how long each of so many slots waits until it reports another phase, so that all report few."""
    return max(_GATHER_S, count / _PHASES_PER_S)


class SlotHost:
    """The first GPU that this process may use, or its processors, locked on this host; and a lane on it.

    It is one of `count` slots that the driver has of `executor`, and reports so much less often the more
    there are. `folder` is where the driver was started: names of provider files are relative to it. Raise
    UsageError if it does not exist here, if there is no GPU, or if another process has it.
    """

    def __init__(self, device: Device, folder: Path, executor: str, count: int) -> None:
        host = platform.node()
        if not folder.is_dir():
            raise UsageError(
                f"{host} has no folder {folder}: start the sweep in a folder that all hosts share"
            )
        os.chdir(folder)
        gpu = usable_gpus()[0] if device == "cuda" else None
        name = f"{host} {gpu.uuid[:12]}" if gpu else f"{host} pid {os.getpid()}"
        self.slot = Slot(name, describe_machine(device, gpu=gpu), Place(gpu), f"{executor} {count}")
        self._pause_s = report_pause_s(count)
        self._told_s = 0.0
        self._happened: Happened = queue.SimpleQueue()
        self._thread: SlotThread | None = None
        self._locks = ExitStack()
        self._locks.enter_context(hold(dict.fromkeys(self.slot.place.devices, name)))
        start_tracker()

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
        """Return what has happened since the last call; wait so long for something. Raise its error.

        What follows an outcome within a quarter of a second comes with it. Of the phases only the last one
        comes, now and then.
        """
        found: list[SlotEvent] = []
        phase: CaseEntered | None = None
        now = time.monotonic()
        end = now + seconds
        while True:
            try:
                event = self._happened.get(timeout=max(0.0, end - now))
            except queue.Empty:
                break
            now = time.monotonic()
            match event:
                case BaseException():
                    raise event
                case CaseEntered():
                    phase = event
                    end = min(end, max(now, self._told_s + self._pause_s))
                case CaseMeasured():
                    found.append(event)
                    end = min(end, now + _GATHER_S)
                case JobFinished() | SlotLost():
                    found.append(event)
                    phase = None
                    break
        if any(map(_blames, found)):
            time.sleep(_GRACE_S)
        if phase is not None:
            found.append(phase)
            self._told_s = now
        return found

    def end(self) -> None:
        """Kill what still runs; the slot stays locked."""
        if self._thread is not None:
            self._thread.abandon()
            self._thread.join()
            self._thread = None
            self.poll(0.0)


def _blames(event: SlotEvent) -> bool:
    return isinstance(event, CaseMeasured) and event.outcome.status == "crashed"
