"""The watch over replays of a CUDA graph, which are judged as timed calls are."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from torch import Tensor

from lightning_bench.measure.device.graph import Replay
from lightning_bench.measure.guard import GUARD
from lightning_bench.measure.likeness import Likeness, Lot
from lightning_bench.measure.signs import InputSigns

_WHAT = "a replay of its CUDA graph"

_clock = time.perf_counter


class WrongReplayError(Exception):
    """Why a case whose calls are right is wrong."""


class ReplayAudit:
    """Before each replay the inputs change in place and the results become NaN: it must write them anew.

    No Python of the provider runs in a replay, and its results lie in the same memory each time, so neither
    threads nor memory are looked at. `written` names inputs that have changed; `left` gives what a replay has
    left in place of inputs.
    """

    def __init__(
        self,
        replay: Replay,
        likeness: Likeness,
        signs: InputSigns,
        lot: Lot,
        written: Callable[[], str | None],
        left: Callable[[], dict[str, Tensor]] = dict,
    ) -> None:
        self.failure = likeness.odd(_WHAT, replay.results)
        self._replay, self._likeness = replay, likeness
        self._written, self._left = written, left
        self._input_signs, self._lot = signs, lot
        self._signs = signs.own()
        self._looked = False

    def begins(self, *, certain: bool = False) -> None:
        """Give v the signs that the graph of a backward pass was captured with."""
        self._lot.begins(certain=certain)
        self._input_signs.hold(new=False)

    def before(self) -> None:
        """Change the inputs and overwrite the results, outside of what is timed."""
        self._signs = self._input_signs.change()
        for x in self._replay.results.values():
            x.detach().fill_(math.nan)

    def after(self, result: Any) -> None:
        """Judge the results, if this replay is drawn."""
        begin = _clock()
        if self.failure is None and self._lot.drawn():
            self._likeness.compare({**self._left(), **result}, self._signs)
            self._lot.spent(_clock() - begin, on_gpu=True)

    def drained(self, ms: float) -> None:
        """Do nothing: a replay is over when all of its streams are."""

    def ends(self) -> None:
        """Judge the turn; after the first, look at the inputs."""
        replaced = GUARD.replaced()
        found = self._likeness.failure(_WHAT)
        self._lot.ends()
        if not self._looked:
            self._looked = True
            self._input_signs.reset()
            found = self._written() or found
        self.failure = self.failure or replaced or found
