"""An executor without workers: its slots measure in no time, in an order that is drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from random import Random

from lightning_bench.case import Case, Shape
from lightning_bench.machine import describe_machine
from lightning_bench.machine.place import Place
from lightning_bench.measure.job import Outcome
from lightning_bench.run.executor import (
    CaseEntered,
    CaseMeasured,
    JobFinished,
    Slot,
    SlotEvent,
    SlotLost,
    Unit,
)

MACHINE = describe_machine("cpu")
_PROVIDERS = ("sdpa-math", "lightning2-torch")


def made_up_cases(shapes: int) -> list[Case]:
    """Return the cases of two providers at so many shapes."""
    return [
        Case(Shape(1, 1, 64 * (number + 1), 16, 16, "fp32", "cpu"), provider, "fwd")
        for number in range(shapes)
        for provider in _PROVIDERS
    ]


class Played:
    """Slots that measure in no time: a random one goes on, and some are lost after part of a unit."""

    def __init__(self, count: int, draw: Random, losses: int = 0) -> None:
        self._slots = [Slot(f"slot {number}", MACHINE, Place(), f"local {count}") for number in range(count)]
        self._draw, self._losses = draw, losses
        self._busy: dict[Slot, Unit] = {}
        self.begins = True
        self.given: list[tuple[Slot, Unit]] = []

    def slots(self) -> Sequence[Slot]:
        return list(self._slots)

    def submit(self, slot: Slot, unit: Unit) -> None:
        assert slot not in self._busy, "two jobs at a time"
        assert slot in self._slots, "it is lost"
        self._busy[slot] = unit
        self.given.append((slot, unit))

    def events(self) -> Iterator[SlotEvent]:
        while self._busy:
            slot = self._draw.choice(list(self._busy))
            unit = self._busy[slot]
            is_lost = self._losses > 0 and self._draw.random() < 0.3
            done = self._draw.randrange(len(unit.job.cases)) if is_lost else len(unit.job.cases)
            if self.begins:
                yield CaseEntered(slot, "", "start")
            for case in unit.job.cases[:done]:
                yield CaseMeasured(slot, Outcome(case, "ok"))
            del self._busy[slot]
            if is_lost:
                self._losses -= 1
                self._slots.remove(slot)
                yield SlotLost(slot, "it burned down")
            else:
                yield JobFinished(slot, Counter(samples=1.0))

    def close(self) -> None:
        self._busy.clear()
