"""Passes of two sides on several slots: each shape stays on one, and its sides take turns."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_bench.record import ResultFile
from lightning_bench.run.pairs import Tree, run_pairs
from lightning_bench.run.plan import Plan, with_providers
from lightning_bench.run.progress import QuietWatcher
from lightning_bench.suite import Limits
from tests.support.played_slots import MACHINE, Played, made_up_cases


@settings(max_examples=20)
@given(
    st.integers(1, 4), st.integers(1, 6), st.integers(2, 5), st.booleans(), st.randoms(use_true_random=False)
)
def test_both_sides_of_a_shape_take_turns_on_one_slot(
    tmp_path_factory: pytest.TempPathFactory, count: int, shapes: int, pairs: int, on_each: bool, draw: Random
) -> None:
    folder: Path = tmp_path_factory.mktemp("pairs")
    plan = Plan("s", "speed", "lbench", Limits(), MACHINE, "cpu", tuple(made_up_cases(shapes)))
    plan = with_providers(plan)
    executor = Played(count, draw)
    with ResultFile(folder / "a.csv") as first, ResultFile(folder / "b.csv") as second:
        trees = [Tree(plan, (), first, "base"), Tree(plan, (), second, "head")]
        run_pairs(trees, pairs, QuietWatcher(), executor, on_each=on_each)
        rows = [Counter(record.case_id for record in file.records) for file in (first, second)]
    times = pairs * (count if on_each else 1)
    assert rows == [Counter({plan.case_id(case): times for case in plan.cases})] * 2

    for slot in executor.slots():
        units = [unit for each, unit in executor.given if each is slot]
        own = list(dict.fromkeys(unit.job.shape for unit in units))
        # In turns A B B A, and in new workers at the beginning of a pass only.
        expected = [
            (shape, side, index == 0 and turn == 0)
            for number in range(pairs)
            for index, shape in enumerate(own)
            for turn, side in enumerate((0, 1) if (number + index) % 2 == 0 else (1, 0))
        ]
        assert [(unit.job.shape, unit.side, unit.fresh) for unit in units] == expected
    owners = {(unit.job.shape, slot) for slot, unit in executor.given}
    assert len(owners) == shapes * (count if on_each else 1)
