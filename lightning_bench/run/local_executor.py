"""LocalExecutor: slots that are GPUs, MIG slices or processors of this machine, locked for this process."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from lightning_bench.machine.gpu import seeing_only
from lightning_bench.machine.place_lock import hold
from lightning_bench.run.executor import JobFinished, Slot, SlotEvent, SlotLost, Unit
from lightning_bench.run.lane import Crew
from lightning_bench.run.leak_tracker import start_tracker
from lightning_bench.run.slot_thread import Happened, SlotThread
from lightning_bench.run.slots import fair_share


class LocalExecutor:
    """A thread with a lane per slot; a thread only waits for its worker.

    Raise UsageError if another process has a slot's device; its message has the process id.
    """

    def __init__(self, slots: Sequence[Slot], crew: Crew) -> None:
        self._stack = ExitStack()
        with ExitStack() as stack:
            stack.enter_context(hold({device: slot.name for slot in slots for device in slot.place.devices}))
            self._stack = stack.pop_all()
        start_tracker()  # before the threads block the signal
        self._happened: Happened = queue.SimpleQueue()
        self._working: set[Slot] = set()
        self._threads = {slot: SlotThread(slot, crew, self._happened) for slot in slots}

    def slots(self) -> Sequence[Slot]:
        """Return all slots."""
        return list(self._threads)

    def submit(self, slot: Slot, unit: Unit) -> None:
        """Wake the thread of the slot."""
        self._working.add(slot)
        self._threads[slot].units.put(unit)

    def events(self) -> Iterator[SlotEvent]:
        """Yield what the threads report. Raise what one of them could not handle."""
        while self._working:
            event = self._happened.get()
            if isinstance(event, BaseException):
                raise event
            if isinstance(event, JobFinished | SlotLost):
                self._working.remove(event.slot)
            yield event

    def close(self) -> None:
        """Kill the workers, wait for the threads and unlock the devices."""
        for thread in self._threads.values():
            thread.abandon()
        for thread in self._threads.values():
            thread.join()
        self._stack.close()


class LocalFleet:
    """Slots of this machine, for one plan after the other.

    Until it is closed, CUDA sees the first of its GPUs only in this process, so that what is asked of "the
    GPU" here is asked of a slot.
    """

    def __init__(self, slots: Sequence[Slot]) -> None:
        self.slots = tuple(slots)
        self._stack = ExitStack()
        if (gpu := slots[0].place.gpu) is not None:
            self._stack.enter_context(seeing_only(gpu))

    def executor(self, crew: Crew) -> LocalExecutor:
        """Return what measures with such workers; UsageError if another process has a slot's device."""
        return LocalExecutor(self.slots, fair_share(crew, self.slots))

    def close(self) -> None:
        """Let CUDA see all GPUs again; a slot is held by its executor."""
        self._stack.close()
