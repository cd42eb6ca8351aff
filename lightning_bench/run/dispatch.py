"""The driver of several slots: gives out units as slots become free, and books what comes back."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

from lightning_bench.case import Case
from lightning_bench.errors import LbenchError
from lightning_bench.measure.job import Outcome
from lightning_bench.run.executor import (
    CaseEntered,
    CaseMeasured,
    Executor,
    JobFinished,
    Slot,
    SlotLost,
    Unit,
)

NextUnit = Callable[[Slot], Unit | None]
"""Returns what a slot that is free does next, None if there is nothing for it."""

_MOST_LOSSES = 2
"""So many slots may be lost under a unit; then its cases have crashed."""


class Books(Protocol):
    """Writes rows and shows progress."""

    def entered(self, case_id: str, phase: str, slot: Slot, unit: Unit) -> None:
        """Show that a case of the unit enters a phase."""

    def measured(self, outcome: Outcome, slot: Slot, unit: Unit) -> None:
        """Write the row of a case of the unit."""

    def idle(self, slot: Slot) -> None:
        """Show that a slot has nothing to do."""

    def lost(self, slot: Slot, reason: str) -> None:
        """Show that a slot measures nothing any more; LbenchError if no other can take over."""


def dispatch(executor: Executor, books: Books, next_unit: NextUnit) -> Counter[str]:
    """Measure all units on the slots of an executor and return the workers' seconds by phase.

    What a slot that is lost has not measured goes to another one; if that is lost too, its cases have
    crashed. Raise LbenchError if something is left to do and no slot.
    """
    running = _Running(executor, books, next_unit)
    running.fill()
    for event in executor.events():
        unit = running.unit_on(event.slot)
        match event:
            case CaseEntered(slot, case_id, phase):
                running.began(slot)
                books.entered(case_id, phase, slot, unit)
            case CaseMeasured(slot, outcome):
                running.measured(slot, outcome)
                books.measured(outcome, slot, unit)
            case JobFinished(slot, seconds):
                running.finished(slot, seconds)
            case SlotLost(slot, reason):
                books.lost(slot, reason)
                running.lost(slot, reason)
    return running.seconds


@dataclass
class _Given:
    """A unit that a slot has, how many were lost under it, whether it has begun, and which cases are done."""

    unit: Unit
    losses: int = 0
    begun: bool = False
    done: list[Case] = field(default_factory=list)

    @property
    def left(self) -> Unit:
        """The unit without the cases that are done."""
        cases = tuple(case for case in self.unit.job.cases if case not in self.done)
        return replace(self.unit, job=replace(self.unit.job, cases=cases))


class _Running:
    """Which slot has which unit."""

    def __init__(self, executor: Executor, books: Books, next_unit: NextUnit) -> None:
        self._executor, self._books, self._next = executor, books, next_unit
        self._idle = dict.fromkeys(executor.slots())  # in order
        self._again: deque[_Given] = deque()
        self._running: dict[Slot, _Given] = {}
        self.seconds: Counter[str] = Counter()

    def unit_on(self, slot: Slot) -> Unit:
        return self._running[slot].unit

    def fill(self) -> None:
        """Give every idle slot something to do, as long as there is something for it."""
        for slot in list(self._idle):
            self._give(slot)

    def _give(self, slot: Slot) -> None:
        todo = self._again.popleft() if self._again else self._new(slot)
        if todo is not None:
            del self._idle[slot]
            self._running[slot] = todo
            self._executor.submit(slot, todo.unit)

    def _new(self, slot: Slot) -> _Given | None:
        unit = self._next(slot)
        return None if unit is None else _Given(unit)

    def began(self, slot: Slot) -> None:
        """Note that the slot works on its unit: if it is lost from now on, the unit may be to blame."""
        self._running[slot].begun = True

    def measured(self, slot: Slot, outcome: Outcome) -> None:
        """Note that a case of the slot's unit is done."""
        self.began(slot)
        self._running[slot].done.append(outcome.case)

    def finished(self, slot: Slot, seconds: Counter[str]) -> None:
        """Give the slot, which is free now, the next unit; there was none for those that are idle."""
        del self._running[slot]
        self._idle[slot] = None
        self.seconds.update(seconds)
        self._give(slot)
        if slot in self._idle:
            self._books.idle(slot)

    def lost(self, slot: Slot, reason: str) -> None:
        """Give what the slot has left to another one, or up."""
        given = self._running.pop(slot)
        unit, losses = given.left, given.losses + given.begun
        if losses < _MOST_LOSSES:
            if unit.job.cases:
                self._again.append(_Given(unit, losses))
        else:
            for case in unit.job.cases:
                why = f"{losses} slots were lost while they measured it; the last one: {reason}"
                self._books.measured(Outcome(case, "crashed", why), slot, unit)
        self.fill()
        if not (self._running or self._idle) and (self._again or self._next(slot) is not None):
            raise LbenchError(f"no slot is left to measure on; the last one, {slot.name}: {reason}")
