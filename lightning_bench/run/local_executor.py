"""LocalExecutor: slots that are GPUs, MIG slices or processors of this machine, locked for this process."""

from __future__ import annotations

import queue
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from multiprocessing import resource_tracker

from lightning_bench.errors import LbenchError
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
from lightning_bench.run.lane import Crew, Lane
from lightning_bench.run.supervisor import AbandonedError


class LocalExecutor:
    """A thread with a lane per slot; a thread only waits for its worker.

    Raise UsageError if another process has a slot's device; its message has the process id.
    """

    def __init__(self, slots: Sequence[Slot], crew: Crew) -> None:
        self._stack = ExitStack()
        with ExitStack() as stack:
            stack.enter_context(hold({device: slot.name for slot in slots for device in slot.place.devices}))
            self._stack = stack.pop_all()
        resource_tracker.ensure_running()  # it would unblock the signal that the threads block
        self._happened: queue.SimpleQueue[SlotEvent | BaseException] = queue.SimpleQueue()
        self._working: set[Slot] = set()
        self._threads = {slot: _SlotThread(slot, crew, self._happened) for slot in slots}

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


class _SlotThread(threading.Thread):
    def __init__(
        self, slot: Slot, crew: Crew, happened: queue.SimpleQueue[SlotEvent | BaseException]
    ) -> None:
        super().__init__(name=slot.name, daemon=True)
        self._slot, self._happened = slot, happened
        self.units: queue.SimpleQueue[Unit | None] = queue.SimpleQueue()
        self._lane = Lane(crew, slot.place)
        self.start()

    def abandon(self) -> None:
        """Let the thread end soon, whatever its worker does."""
        self._lane.abandon()
        self.units.put(None)

    def run(self) -> None:
        """Measure units until there is a None. The workers end with this thread, which started them."""
        # A worker inherits it: the driver alone decides what an interrupt means.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            while unit := self.units.get():
                self._happened.put(self._ending(unit))
        except AbandonedError:
            pass
        except BaseException as error:
            self._happened.put(error)
        finally:
            self._lane.close()

    def _ending(self, unit: Unit) -> JobFinished | SlotLost:
        slot, lane, before = self._slot, self._lane, self._lane.seconds
        try:
            if unit.fresh:
                lane.prepare()
            lane.measure(
                unit.job,
                lambda outcomes: self._happened.put(CaseMeasured(slot, outcomes)),
                lambda case_id, phase: self._happened.put(CaseEntered(slot, case_id, phase)),
                unit.side,
            )
        except LbenchError as error:
            return SlotLost(slot, str(error))
        spent = lane.seconds
        return JobFinished(slot, Counter({phase: spent[phase] - before[phase] for phase in spent}))
