"""Which slot gets which unit: each once, whatever order slots end in and whichever of them are lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_bench.case import Shape
from lightning_bench.errors import LbenchError, UsageError
from lightning_bench.measure.job import Job, Outcome
from lightning_bench.run.dispatch import dispatch
from lightning_bench.run.executor import Slot, Unit
from lightning_bench.run.plan import Plan, by_shape
from lightning_bench.run.shard import SweepShard
from lightning_bench.suite import Limits
from tests.support.played_slots import MACHINE, Played, made_up_cases


def units(shapes: int) -> list[Unit]:
    groups = by_shape(made_up_cases(shapes)).values()
    return [Unit(Job(tuple(group), "check", "lbench", Limits())) for group in groups]


class Noted:
    def __init__(self) -> None:
        self.outcomes: list[tuple[Slot, Outcome]] = []
        self.gone: list[Slot] = []

    def entered(self, case_id: str, phase: str, slot: Slot, unit: Unit) -> None: ...

    def measured(self, outcome: Outcome, slot: Slot, unit: Unit) -> None:
        assert outcome.case in unit.job.cases
        self.outcomes.append((slot, outcome))

    def idle(self, slot: Slot) -> None: ...

    def lost(self, slot: Slot, reason: str) -> None:
        self.gone.append(slot)


@given(st.integers(1, 5), st.integers(0, 12), st.integers(0, 3), st.randoms(use_true_random=False))
def test_each_case_has_one_outcome_while_a_slot_is_left(
    count: int, shapes: int, losses: int, draw: Random
) -> None:
    executor, noted = Played(count, draw, losses), Noted()
    todo = iter(units(shapes))
    stranded = ""
    try:
        dispatch(executor, noted, lambda _: next(todo, None))
    except LbenchError as error:
        stranded = str(error)
    if stranded:
        assert stranded.startswith("no slot is left to measure on; the last one, slot ")
        assert len(noted.gone) == count
    else:
        assert Counter(outcome.case for _, outcome in noted.outcomes) == Counter(made_up_cases(shapes))
    # All cases of a shape were given to one slot, and to another only after that one was lost.
    holders: dict[Shape, list[Slot]] = {}
    for slot, unit in executor.given:
        holders.setdefault(unit.job.shape, []).append(slot)
    assert all(slot in noted.gone for slots in holders.values() for slot in slots[:-1])


def test_what_loses_two_slots_has_crashed() -> None:
    class TwoFirst(Random):
        def random(self) -> float:
            return 0.0 if executor.given[-1][1].job.shape.seq_len == 64 else 1.0

        def choice(self, seq: Sequence[Slot]) -> Slot:  # type: ignore[override]
            return seq[-1]

    executor, noted = Played(3, TwoFirst(1), losses=9), Noted()
    todo = iter(units(1))
    dispatch(executor, noted, lambda _: next(todo, None))
    crashed = [outcome for _, outcome in noted.outcomes if outcome.status == "crashed"]
    assert crashed
    assert crashed[0].reason == "2 slots were lost while they measured it; the last one: it burned down"
    assert len(noted.gone) == 2
    assert Counter(outcome.case for _, outcome in noted.outcomes) == Counter(made_up_cases(1))


def test_slots_that_are_gone_before_they_begin_blame_nothing() -> None:
    class AllAtOnce(Random):
        def random(self) -> float:
            return 0.0

        def randrange(self, *_: int) -> int:  # type: ignore[override]
            return 0

    executor, noted = Played(4, AllAtOnce(1), losses=3), Noted()
    executor.begins = False
    todo = iter(units(1))
    dispatch(executor, noted, lambda _: next(todo, None))
    assert len(noted.gone) == 3
    assert {outcome.status for _, outcome in noted.outcomes} == {"ok"}


@given(st.integers(1, 9), st.integers(1, 9))
def test_shards_are_a_partition_by_shape(count: int, shapes: int) -> None:
    plan = Plan("s", "check", "lbench", Limits(), MACHINE, "cpu", tuple(made_up_cases(shapes)))
    parts = [SweepShard(number, count).part(plan).cases for number in range(1, count + 1)]
    assert Counter(case for part in parts for case in part) == Counter(plan.cases)
    owners = {(case.shape, number) for number, part in enumerate(parts) for case in part}
    assert len(owners) == shapes
    sizes = [len(by_shape(part)) for part in parts]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/0", "-1/4", "a/b", "1/4/2", ""])
def test_no_part_of_a_sweep(text: str) -> None:
    with pytest.raises(UsageError, match="is no part of a sweep; allowed: 1/N to N/N"):
        SweepShard.parse(text)
