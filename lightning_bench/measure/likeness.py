"""Likeness: whether later results of a call are those of the first, which has passed the gate."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_bench.case import Layout
from lightning_bench.measure.deviation import SKETCH_FACTOR
from lightning_bench.measure.oracle import Reference
from lightning_bench.measure.signs import Signs
from lightning_bench.measure.sketch import excess

_JUDGED_FIRST = 4
_SHARE = 0.08
_LATER = 0.1
_RATE = 1e12  # bytes per second that a GPU takes to judge, for the share of the time; never for a figure
# Two results may both be off by the budget of a row.
_FACTOR = 2 * SKETCH_FACTOR

_chance = secrets.SystemRandom().random
_clock = time.perf_counter


class Likeness:
    """Compares results of one case with the first ones, by sketches of every row under their signs.

    On a GPU a comparison is only enqueued; `worst` waits for all of them.
    """

    def __init__(self, reference: Reference, layout: Layout, first: Mapping[str, Tensor], own: Signs) -> None:
        self._reference, self._layout = reference, layout
        self._first = {name: reference.sketcher.sketch(name, x, layout, own) for name, x in first.items()}
        self._scales = {name: reference.row_scale(name, x.norms) for name, x in self._first.items()}
        self.kinds = {name: (x.shape, x.dtype, x.device) for name, x in first.items()}
        self.bytes = sum(x.numel() * x.element_size() for x in first.values())
        self._found: list[tuple[str, Tensor]] = []

    def compare(self, results: Mapping[str, Tensor], signs: Signs) -> None:
        """Compare results that a call gave when the inputs had these signs."""
        for name, x in results.items():
            got = self._reference.sketcher.sketch(name, x, self._layout, signs)
            difference = got.values - self._first[name].values
            self._found.append((name, excess(difference, self._scales[name]).max()))

    def failure(self, what: str) -> str | None:
        """Return by how much the worst result since the last question was off, or None; `what` gave it."""
        worst = [(name, float(x)) for name, x in self._found]
        self._found.clear()
        name, most = max(worst, key=lambda entry: entry[1], default=("", 0.0))
        if most <= _FACTOR:
            return None
        size = "NaN or Inf" if math.isinf(most) else f"{most * self._reference.budgets[name]:.1e}"
        return (
            f"{what} gave another {name} than the call that was checked: off by {size} in a row, "
            f"the budget there is {_FACTOR * self._reference.budgets[name]:.1e}"
        )

    def odd(self, what: str, results: object) -> str | None:
        """Return how the results differ in kind from the first ones, or None."""
        if not isinstance(results, dict) or results.keys() != self.kinds.keys() & results.keys():
            return f"{what} gave results of other names than the call that was checked"
        for name, x in results.items():
            if (reason := plain_tensor(name, x)) is not None:
                return reason
            if (x.shape, x.dtype, x.device) != self.kinds[name]:
                return f"{what} gave {name} as {x.dtype} {tuple(x.shape)} on {x.device}"
        return None


class Lot:
    """Decides which calls are judged: the first, and others that nobody can foresee, in a share of time."""

    def __init__(self, bytes_judged: int) -> None:
        self.calls = self.judged = 0
        self._bytes = bytes_judged
        self._owes = False
        self._turn_began = self._sampled_s = self._spent_s = 0.0

    def begins(self, *, certain: bool) -> None:
        """Begin a turn; if `certain`, its first call is drawn."""
        self._owes, self._turn_began = certain, _clock()

    def ends(self) -> None:
        """End a turn."""
        self._sampled_s += _clock() - self._turn_began

    def drawn(self) -> bool:
        """Decide, after a call, whether it is judged: always at first and while that is cheap."""
        owes, self._owes = self._owes, False
        cheap = self.judged < _JUDGED_FIRST or self._spent_s <= _SHARE * self._sampled_s
        chosen = owes or cheap or _chance() < _LATER
        self.calls, self.judged = self.calls + 1, self.judged + chosen
        return chosen

    def spent(self, seconds: float, *, on_gpu: bool) -> None:
        """Note the host's time that judging a call has taken."""
        self._spent_s += seconds + (self._bytes / _RATE if on_gpu else 0.0)


def plain_tensor(name: str, x: object) -> str | None:
    """Return why a result is not a tensor that is there, whole and in memory, or None."""
    if type(x) is not Tensor and type(x) is not torch.nn.Parameter:
        return f"{name} is a {type(x).__module__}.{type(x).__qualname__}, not a plain tensor"
    if x.layout != torch.strided or x.is_quantized or x.is_nested:
        return f"{name} is not a dense tensor"
    if any(stride == 0 and size > 1 for stride, size in zip(x.stride(), x.shape, strict=True)):
        return f"{name} is expanded: several of its elements are one in memory"
    return None
