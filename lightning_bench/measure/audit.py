"""The audit of timed calls: inputs that change, and results that are judged as the first one was.

Before every call the signs of v and do change (`signs`). After the first few calls, and after others that
nobody can foresee, every row of the result is compared with the first result, which has passed the gate,
under those signs (`likeness`). On a GPU the comparison is enqueued right behind the call: work on another
stream comes too late.
"""

from __future__ import annotations

import math
import threading
import time
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lightning_bench.case import Case, Distribution
from lightning_bench.measure.calls import DirectionCall
from lightning_bench.measure.deviation import judge
from lightning_bench.measure.device.graph import Replay
from lightning_bench.measure.guard import GUARD
from lightning_bench.measure.inputs import InputSet
from lightning_bench.measure.leftovers import left_by_call, running_threads
from lightning_bench.measure.likeness import Likeness, Lot
from lightning_bench.measure.oracle import Reference
from lightning_bench.measure.replays import ReplayAudit
from lightning_bench.measure.returned import Returned
from lightning_bench.measure.signs import InputSigns
from lightning_bench.providers.registry.base import Provider

_RENEWED_TURNS = 2
_HASHED_TURNS = 2
_POISONED_BYTES = 2**26
# A device that is busy for so much longer than the events say has work on another stream.
_DRAIN_SHARE, _DRAIN_MS = 0.5, 0.2

NEW_MOST = 7
"""On how many new contents a call is timed at most."""
_NEW_LEAST = 5
# Every call on what is new must be so much slower than three that followed and than the case's median: noise
# affects all of them, and who computes anew in some calls of its own choice is as fast in the others.
_REMEMBERS, _SEEN_FAST = 1.4, 3

_clock = time.perf_counter


class Audit:
    """Watches the timed calls of one case. `first` is the result that has passed the gate."""

    def __init__(
        self,
        case: Case,
        provider: Provider,
        call: DirectionCall,
        inputs: InputSet,
        reference: Reference,
        first: dict[str, Tensor],
    ) -> None:
        self.failure: str | None = None
        self.judged_on: list[Distribution] = []
        self._new_contents = 0
        self._case, self._call, self._layout = case, call, provider.layout
        self._inputs, self._reference = inputs.of(provider.family), reference
        signed, pool = self._inputs.signed(provider.layout), self._inputs.pool(provider)
        self._input_signs = InputSigns(case, provider.family, signed, pool)
        self._signs = self._input_signs.own()
        self._likeness = Likeness(reference, provider.layout, first, self._signs)
        self._returned = Returned(self._likeness.kinds, self._inputs, provider.layout)
        self._lot, self._replays = Lot(self._likeness.bytes), Lot(self._likeness.bytes)
        self._turns = 0
        self._drains: list[float] = []
        self._threads: set[threading.Thread] = set()

    def begins(self, *, certain: bool = False) -> None:
        """Give v and do the signs that the graph of a backward pass was built with, or build it anew."""
        self._turns += 1
        self._lot.begins(certain=certain)
        renewed = self._turns <= _RENEWED_TURNS
        self._input_signs.hold(new=renewed)
        if renewed:
            self._call.renew()
        self._threads = set(running_threads())

    def before(self) -> None:
        """Change the signs of what the call reads."""
        self._signs = self._input_signs.change()
        self._poison()

    def after(self, result: Any) -> None:
        """Judge a result, or only look at what kind of tensors it has."""
        begin = _clock()
        self.failure = self.failure or self._odd(result)
        if self.failure is None and self._lot.drawn():
            self._likeness.compare({**self._call.left(), **result}, self._signs)
            self._lot.spent(_clock() - begin, on_gpu=self._case.shape.device == "cuda")

    def drained(self, ms: float) -> None:
        """Note for how long a GPU was busy after the calls of a turn."""
        self._drains.append(ms)

    def ends(self) -> None:
        """Judge the turn, after a look at the judge: a function in its place could undo that when called."""
        replaced = GUARD.replaced()
        found = self._likeness.failure("a timed call")
        self.failure = replaced or self.failure or found
        self._returned.ends()
        self._lot.ends()
        if self._turns <= _HASHED_TURNS or self.failure is not None:
            self.look_at_inputs()

    def before_capture(self) -> None:
        """Give v the signs that a replay of a backward pass will find."""
        self._input_signs.hold(new=False)

    def of_replays(self, replay: Replay) -> ReplayAudit:
        """Return the watch over replays of a CUDA graph that was captured after `before_capture`."""
        written = partial(self._inputs.written, self._layout)
        watch = ReplayAudit(
            replay, self._likeness, self._input_signs, self._replays, written, self._call.left
        )
        watch.failure = watch.failure or self._inputs.aliased(replay.results, self._layout)
        return watch

    def look_at_inputs(self) -> None:
        """Compare the inputs, byte by byte, with what they were; the reason names those that have changed."""
        self._input_signs.reset()
        self.failure = self._inputs.written(self._layout) or self.failure

    @property
    def checks(self) -> str:
        """Return what was judged, for the row."""
        pairs = f"{self._reference.judged_pairs} of {self._case.shape.batch * self._case.shape.heads} pairs"
        if by_second := self._reference.judged_by_second:
            pairs += f", {by_second} of them by torch's fused kernel"
        timed = f"{self._lot.judged} of {self._lot.calls} timed calls" if self._lot.calls else ""
        replays = f"{self._replays.judged} of {self._replays.calls} replays" if self._replays.calls else ""
        new = f"{self._new_contents} new contents timed" if self._new_contents else ""
        again = [f"{distribution} inputs again" for distribution in self.judged_on]
        return "; ".join(filter(None, [pairs, timed, new, *again, replays]))

    def judge_anew(self, reference: Reference, distribution: Distribution) -> None:
        """Judge the timed call on other inputs, which are in place already."""
        self._call.renew()
        got = self._call.tensors()
        replaced = GUARD.replaced()
        result = judge(reference, got, self._layout)
        self.judged_on.append(distribution)
        if replaced:
            self.failure = replaced
        elif result.failure:
            self.failure = f"on other inputs ({distribution}): {result.failure}"

    def tries_zeros(self) -> None:
        """Give the audit a result of zeros, without a call: if it passes, something keeps errors from it."""
        if not self._returned.holds or self.failure is not None:  # there may be no memory for another result
            return
        calls, judged = self._lot.calls, self._lot.judged
        self.begins(certain=True)
        self.before()
        kinds = self._likeness.kinds.items()
        self.after({name: torch.zeros(size, dtype=dtype, device=on) for name, (size, dtype, on) in kinds})
        found = self._likeness.failure("a result of zeros")
        self._returned.ends()
        self._lot.ends()
        self._lot.calls, self._lot.judged = calls, judged
        if found is None:
            blind = "a result of zeros passes for right: something keeps errors from the judge"
            self.failure = self.failure or blind

    def note_new_contents(self, timed: list[tuple[float, float]], median_ms: float) -> None:
        """Compare times, ms, of calls on contents that were new with those of the calls right after them."""
        self._new_contents = len(timed)
        if len(timed) < _NEW_LEAST or self.failure is not None:
            return
        new = min(first for first, _ in timed)
        seen = sorted(second for _, second in timed)[_SEEN_FAST - 1]
        if new > _REMEMBERS * max(seen, median_ms):
            self.failure = (
                f"it keeps something from call to call: at least {new:.3g} ms on inputs that it has not "
                f"seen, then {seen:.3g} ms, on {len(timed)} contents, where its median is {median_ms:.3g} ms"
            )

    def trouble(self, median_ms: float) -> str | None:
        """Return why a GPU was busy with more than the events show, or None."""
        if len(self._drains) < 3:
            return None
        typical = sorted(self._drains)[len(self._drains) // 2]
        if typical <= max(_DRAIN_MS, _DRAIN_SHARE * median_ms):
            return None
        return f"work on other streams: the GPU is busy for {typical:.3g} ms after its last event"

    def _odd(self, result: Any) -> str | None:
        """Return what is not as it was in the first result, which no look at values would show."""
        return left_by_call(self._threads) or self._returned.odd(result)

    def _poison(self) -> None:
        """Fill with NaN the memory that a GPU's allocator hands out next; elsewhere old results lie there."""
        if self._case.shape.device != "cuda":
            return
        for shape, dtype, device in self._likeness.kinds.values():
            if math.prod(shape) * dtype.itemsize <= _POISONED_BYTES:
                torch.full(shape, math.nan, dtype=dtype, device=device)


def new_contents(samples: int) -> int:
    """Return on how many new contents a case of so many samples is timed: 0 if that would take long."""
    count = min(NEW_MOST, samples // 4)
    return count if count >= _NEW_LEAST else 0
