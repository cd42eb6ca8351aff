"""Executor: what measures jobs on several slots at once, and what it tells the driver of a sweep."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from lightning_bench.machine import Machine
from lightning_bench.machine.place import Place
from lightning_bench.measure.job import Job, Outcome
from lightning_bench.run.lane import Crew


@dataclass(frozen=True)
class Slot:
    """Where one job at a time is measured: its name, its machine as rows have it, and what its workers see.

    `executor` is what rows say of who gave out the slots.
    """

    name: str
    machine: Machine
    place: Place
    executor: str

    def __hash__(self) -> int:
        return hash(self.name)  # of every event; the machine has dozens of fields


@dataclass(frozen=True)
class Unit:
    """What a slot does in one go: a job, on one of the sides of its crew, in new workers if `fresh`."""

    job: Job
    side: int = 0
    fresh: bool = False


@dataclass(frozen=True)
class CaseEntered:
    """A case of the slot's job enters a phase; an empty id is work for all cases of it."""

    slot: Slot
    case_id: str
    phase: str


@dataclass(frozen=True)
class CaseMeasured:
    """A case has its outcome, of all processes that have measured it."""

    slot: Slot
    outcome: Outcome


@dataclass(frozen=True)
class JobFinished:
    """The slot's job has ended; `seconds` is the time that its workers took for it, by phase."""

    slot: Slot
    seconds: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class SlotLost:
    """The slot measures nothing any more: its job has ended early, and no other can be submitted to it."""

    slot: Slot
    reason: str


SlotEvent = CaseEntered | CaseMeasured | JobFinished | SlotLost


class Executor(Protocol):
    """Slots, and the jobs that run on them. The driver alone writes rows."""

    def slots(self) -> Sequence[Slot]:
        """Return the slots that there were at the beginning."""

    def submit(self, slot: Slot, unit: Unit) -> None:
        """Give a slot something to do; it must have nothing else to do."""

    def events(self) -> Iterator[SlotEvent]:
        """Yield what happens, as it happens, until no slot has anything to do."""

    def close(self) -> None:
        """Kill what still runs and give the slots back; a second call does nothing."""


class Fleet(Protocol):
    """Slots that stay for a whole command, and executors on them, one after the other."""

    slots: tuple[Slot, ...]

    def executor(self, crew: Crew) -> Executor:
        """Return what measures with such workers on the slots."""

    def close(self) -> None:
        """Give the slots back."""
