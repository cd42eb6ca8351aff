"""What a timer learns about calls, and that it ends with them."""

from __future__ import annotations

import gc
from collections.abc import Callable
from itertools import pairwise

from lightning_bench.measure.device.graph import Replay
from lightning_bench.measure.device.spins import Spins


def call() -> Callable[[], None]:
    return lambda: None


def test_a_spin_grows_until_no_time_is_enough() -> None:
    spins, fn, other = Spins(), call(), call()
    seen = []
    while not spins.exposed(fn):
        seen.append(spins.ms(fn))
        spins.lengthen(fn)
    assert all(later == 4 * earlier for earlier, later in pairwise(seen))
    assert seen[0] < 1 < seen[-1] <= 100
    assert spins.ms(fn) == 0
    assert (spins.ms(other), spins.exposed(other)) == (seen[0], False)


def test_what_was_learnt_about_a_call_ends_with_it() -> None:
    spins = Spins()
    first = spins.ms(call())
    addresses = set()
    for _ in range(100):
        fn = call()
        addresses.add(id(fn))
        assert spins.ms(fn) == first
        spins.lengthen(fn)
        del fn
        gc.collect()
    assert len(addresses) < 100  # so some calls had the address of an earlier one


def test_calls_and_replays_of_all_kinds_can_be_learnt_about() -> None:
    spins = Spins()
    replay = Replay(call(), call(), {"o": []})
    for fn in (replay, [].clear, Spins().__init__, call()):
        spins.lengthen(fn)
        assert spins.ms(fn) > 0
