"""The audit of timed calls: inputs that change, and results that are judged as the first one was.

Before every call the signs of v and do change (`signs`). After the first few calls, and after others that
nobody can foresee, every row of the result is compared with the first result, which has passed the gate,
under those signs (`sketch`). On a GPU the comparison is enqueued right behind the call: work on another
stream comes too late.
"""

from __future__ import annotations

import math
import secrets
import threading
import time
from typing import Any

import torch
from torch import Tensor

from lightning_bench.case import Case, Distribution
from lightning_bench.families import definition_of
from lightning_bench.measure.calls import DirectionCall
from lightning_bench.measure.deviation import SKETCH_FACTOR, judge
from lightning_bench.measure.guard import GUARD
from lightning_bench.measure.inputs import InputSet
from lightning_bench.measure.leftovers import running_threads
from lightning_bench.measure.oracle import Reference
from lightning_bench.measure.signs import Signs, SignSource
from lightning_bench.measure.sketch import Sketch, excess
from lightning_bench.providers.dtypes import torch_dtype
from lightning_bench.providers.registry.base import Provider

_JUDGED_FIRST = 4
_SHARE = 0.08
_LATER = 0.1
_RENEWED_TURNS = 2
_HASHED_TURNS = 2
_RATE = 1e12  # bytes per second that a GPU takes to judge, for the share of the time; never for a figure
_POISONED_BYTES = 2**26
# Two results may both be off by the budget of a row.
_AUDIT_FACTOR = 2 * SKETCH_FACTOR
# A device that is busy for so much longer than the events say has work on another stream.
_DRAIN_SHARE, _DRAIN_MS = 0.5, 0.2

NEW_MOST = 7
"""On how many new contents a call is timed at most."""
_NEW_LEAST = 5
# All calls must be so much slower on what is new: noise affects both calls of a pair.
_REMEMBERS = 1.4

_chance = secrets.SystemRandom().random
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
        self.calls = self.judged = self._new_contents = 0
        self.judged_on: list[Distribution] = []
        self._case, self._call, self._layout = case, call, provider.layout
        self._inputs, self._reference = inputs.of(provider.family), reference
        self._v, self._do = self._inputs.signed(provider.layout)
        defined = definition_of(provider.family)
        dtype = torch_dtype(case.shape.dtype)
        self._source = SignSource(case.shape, dtype, columns=defined.odd_in_v)
        self._signs = self._source.draw(columns=False, heads=False)
        self._graph_columns = self._signs.columns
        self._first: dict[str, tuple[Sketch, Tensor]] = {}
        for name, x in first.items():
            self._first[name] = self._of_first(name, x)
        self._kinds = {name: (x.shape, x.dtype, x.device) for name, x in first.items()}
        size = sum(x.numel() * x.element_size() for x in first.values())
        self._holds = not torch.cuda.is_available() or 8 * size < torch.cuda.mem_get_info()[0]
        self._worst: list[tuple[str, Tensor]] = []
        self._last: dict[str, Tensor] | None = None
        self._first_of_turn: dict[str, Tensor] | None = None
        self._turns, self._owes = 0, False
        self._turn_began = self._sampled_s = self._spent_s = 0.0
        self._drains: list[float] = []
        self._threads: set[threading.Thread] = set()

    def begins(self, *, certain: bool = False) -> None:
        """Give v and do the signs that the graph of a backward pass was built with, or build it anew."""
        self._turns += 1
        self._owes = certain
        self._turn_began = _clock()
        if self._case.direction == "bwd":
            if self._turns <= _RENEWED_TURNS:
                self._graph_columns = self._source.draw(columns=True, heads=False).columns
                self._v.to(self._graph_columns)
                self._call.renew()
            self._v.to(self._graph_columns)
        self._threads = set(running_threads())

    def before(self) -> None:
        """Change the signs of what the call reads."""
        if self._case.direction == "bwd":
            self._signs = Signs(self._graph_columns, self._source.draw(columns=False, heads=True).heads)
        else:
            self._signs = self._source.draw(columns=True, heads=self._case.direction != "fwd")
            self._v.to(self._signs.columns)
        if self._case.direction != "fwd":
            self._do.to(self._signs.columns * self._signs.heads)
        self._poison()

    def after(self, result: Any) -> None:
        """Judge a result, or only look at what kind of tensors it has."""
        self.calls += 1
        begin = _clock()
        self.failure = self.failure or self._odd(result)
        if self.failure is None and self._due():
            self.judged += 1
            for name, x in result.items():
                first, scale = self._first[name]
                got = self._reference.sketcher.sketch(name, x, self._layout, self._signs)
                self._worst.append((name, excess(got.values - first.values, scale).max()))
            size = sum(x.numel() * x.element_size() for x in result.values())
            on_gpu = size / _RATE if self._case.shape.device == "cuda" else 0.0
            self._spent_s += _clock() - begin + on_gpu

    def drained(self, ms: float) -> None:
        """Note for how long a GPU was busy after the calls of a turn."""
        self._drains.append(ms)

    def ends(self) -> None:
        """Judge the turn."""
        worst = [(name, float(x)) for name, x in self._worst]
        self._worst.clear()
        self._last = self._first_of_turn = None
        self._sampled_s += _clock() - self._turn_began
        name, most = max(worst, key=lambda entry: entry[1], default=("", 0.0))
        if self.failure is None and most > _AUDIT_FACTOR:
            size = "NaN or Inf" if math.isinf(most) else f"{most * self._reference.budgets[name]:.1e}"
            self.failure = (
                f"a timed call gave another {name} than the call that was checked: off by {size} in a row, "
                f"the budget there is {_AUDIT_FACTOR * self._reference.budgets[name]:.1e}"
            )
        if self._turns <= _HASHED_TURNS or self.failure is not None:
            self.look_at_inputs()
        self.failure = GUARD.replaced() or self.failure

    def look_at_inputs(self) -> None:
        """Compare the inputs, byte by byte, with what they were; the reason names those that have changed."""
        self._v.reset()
        self._do.reset()
        self.failure = self._inputs.written(self._layout) or self.failure

    @property
    def checks(self) -> str:
        """Return what was judged, for the row."""
        pairs = f"{self._reference.judged_pairs} of {self._case.shape.batch * self._case.shape.heads} pairs"
        timed = f"{self.judged} of {self.calls} timed calls" if self.calls else ""
        new = f"{self._new_contents} new contents timed" if self._new_contents else ""
        again = [f"{distribution} inputs again" for distribution in self.judged_on]
        return "; ".join(filter(None, [pairs, timed, new, *again]))

    def judge_anew(self, reference: Reference, distribution: Distribution) -> None:
        """Judge the timed call on other inputs, which are in place already."""
        self._call.renew()
        result = judge(reference, self._call.tensors(), self._layout)
        self.judged_on.append(distribution)
        if result.failure:
            self.failure = f"on other inputs ({distribution}): {result.failure}"

    def note_new_contents(self, timed: list[tuple[float, float]]) -> None:
        """Compare times, ms, of calls on contents that were new with those of the calls right after them."""
        self._new_contents = len(timed)
        ratios = sorted(new / seen for new, seen in timed)
        if len(ratios) >= _NEW_LEAST and ratios[0] > _REMEMBERS:
            new, seen = timed[len(timed) // 2]
            self.failure = (
                f"it keeps something from call to call: {new:.3g} ms on inputs that it has not seen, "
                f"then {seen:.3g} ms, and so on all of {len(ratios)} contents"
            )

    def trouble(self, median_ms: float) -> str | None:
        """Return why a GPU was busy with more than the events show, or None."""
        if len(self._drains) < 3:
            return None
        typical = sorted(self._drains)[len(self._drains) // 2]
        if typical <= max(_DRAIN_MS, _DRAIN_SHARE * median_ms):
            return None
        return f"work on other streams: the GPU is busy for {typical:.3g} ms after its last event"

    def _due(self) -> bool:
        """Decide, after the call, whether it is judged: always at first and while that is cheap."""
        owes, self._owes = self._owes, False
        if owes or self.judged < _JUDGED_FIRST or self._spent_s <= _SHARE * self._sampled_s:
            return True
        return _chance() < _LATER

    def _odd(self, result: Any) -> str | None:
        """Return what is not as it was in the first result, which no look at values would show."""
        if left := [thread.name for thread in running_threads() if thread not in self._threads]:
            return f"its call leaves threads running: {', '.join(left)}"
        last, self._last = self._last, result if self._holds else None
        if not isinstance(result, dict) or result.keys() != self._kinds.keys() & result.keys():
            return "a timed call gave results of other names than the call that was checked"
        for name, x in result.items():
            if (reason := plain_tensor(name, x)) is not None:
                return reason
            if (x.shape, x.dtype, x.device) != self._kinds[name]:
                return f"a timed call gave {name} as {x.dtype} {tuple(x.shape)} on {x.device}"
        if (reason := self._inputs.aliased(result, self._layout)) is not None:
            return reason
        held = {_address(x) for x in [*(last or {}).values(), *(self._first_of_turn or {}).values()]}
        if self._holds:
            self._first_of_turn = self._first_of_turn or result
        if again := [name for name, x in result.items() if x.numel() and _address(x) in held]:
            return f"{', '.join(again)} of one call is in the memory of an earlier one that is still in use"
        return None

    def _of_first(self, name: str, x: Tensor) -> tuple[Sketch, Tensor]:
        sketch = self._reference.sketcher.sketch(name, x, self._layout, self._signs)
        return sketch, self._reference.row_scale(name, sketch.norms)

    def _poison(self) -> None:
        """Fill with NaN the memory that a GPU's allocator hands out next; elsewhere old results lie there."""
        if self._case.shape.device != "cuda":
            return
        for shape, dtype, device in self._kinds.values():
            if math.prod(shape) * dtype.itemsize <= _POISONED_BYTES:
                torch.full(shape, math.nan, dtype=dtype, device=device)


def new_contents(samples: int) -> int:
    """Return on how many new contents a case of so many samples is timed: 0 if that would take long."""
    count = min(NEW_MOST, samples // 4)
    return count if count >= _NEW_LEAST else 0


def plain_tensor(name: str, x: object) -> str | None:
    """Return why a result is not a tensor that is there, whole and in memory, or None."""
    if type(x) is not Tensor and type(x) is not torch.nn.Parameter:
        return f"{name} is a {type(x).__module__}.{type(x).__qualname__}, not a plain tensor"
    if x.layout != torch.strided or x.is_quantized or x.is_nested:
        return f"{name} is not a dense tensor"
    if any(stride == 0 and size > 1 for stride, size in zip(x.stride(), x.shape, strict=True)):
        return f"{name} is expanded: several of its elements are one in memory"
    return None


def _address(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()
