"""The thread that measures what one slot is given, wherever the slot is."""

from __future__ import annotations

import queue
import signal
import threading
from collections import Counter

from lightning_bench.errors import LbenchError
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

Happened = queue.SimpleQueue[SlotEvent | BaseException]
"""What slots report; an exception is what a thread could not handle."""


class SlotThread(threading.Thread):
    """Measures the units that are put into `units`, and puts what happens into a queue.

    Its workers end with it. It only waits for them.
    """

    def __init__(self, slot: Slot, crew: Crew, happened: Happened) -> None:
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
                lambda outcome: self._happened.put(CaseMeasured(slot, outcome)),
                lambda case_id, phase: self._happened.put(CaseEntered(slot, case_id, phase)),
                unit.side,
            )
        except LbenchError as error:
            return SlotLost(slot, str(error))
        spent = lane.seconds
        return JobFinished(slot, Counter({phase: spent[phase] - before[phase] for phase in spent}))
