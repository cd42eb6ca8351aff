"""Likeness: whether later results of a call are those of the first, which has passed the gate."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_bench.case import Layout
from lightning_bench.measure.deviation import SHARE_FACTOR, SKETCH_FACTOR
from lightning_bench.measure.oracle import Reference
from lightning_bench.measure.signs import Signs
from lightning_bench.measure.sketch import excess

Kinds = Mapping[str, tuple[torch.Size, torch.dtype, torch.device]]
"""What each result of a case must be, by its name."""

_JUDGED_FIRST = 4
_SHARE = 0.08
_LATER = 0.1
_RATE = 1e12  # bytes per second that a GPU takes to judge, for the share of the time; never for a figure
# Two results may both be off by the budget: of a row, or of all rows of a pair. Errors of many rows do not
# bunch up in a sketch as one does; the share of itself by which a pair is off is known to its own size.
_ROW_FACTOR, _SHARE_FACTOR, _PAIR_FACTOR = 2 * SKETCH_FACTOR, 2 * SHARE_FACTOR, 4.0

_chance = secrets.SystemRandom().random
_clock = time.perf_counter


class Likeness:
    """Compares results of one case with the first ones, by sketches of every row under their signs.

    Each row counts, all rows of a (batch, head) pair together, and the share of itself that a pair is off by.

    On a GPU a comparison is only enqueued; `worst` waits for all of them.
    """

    def __init__(self, reference: Reference, layout: Layout, first: Mapping[str, Tensor], own: Signs) -> None:
        self._reference, self._layout = reference, layout
        self._first = {name: reference.sketcher.sketch(name, x, layout, own) for name, x in first.items()}
        self._scales = {name: reference.row_scale(name, x.norms) for name, x in self._first.items()}
        self.kinds: Kinds = {name: (x.shape, x.dtype, x.device) for name, x in first.items()}
        self.bytes = sum(x.numel() * x.element_size() for x in first.values())
        self._found: list[tuple[str, str, float, Tensor]] = []

    def compare(self, results: Mapping[str, Tensor], signs: Signs) -> None:
        """Compare results that a call gave when the inputs had these signs."""
        for name, x in results.items():
            first, scale = self._first[name].values, self._scales[name]
            difference = self._reference.sketcher.sketch(name, x, self._layout, signs).values - first
            self._found.append((name, "in a row", _ROW_FACTOR, excess(difference, scale).max()))
            rows = scale.shape[-1] if self._reference.spec(name).has_rows else scale.numel()
            difference, first = (each.reshape(-1, rows, each.shape[-1]) for each in (difference, first))
            allowed = scale.reshape(-1, rows).square().sum(-1)  # per pair
            off = difference.square().mean(-1).sum(-1)
            along = (difference * first).mean(-1).sum(-1).abs() * self._reference.budgets[name]
            for what, factor, squared in (
                ("over all rows of a pair", _PAIR_FACTOR, (off / allowed).sqrt()),
                ("of itself in a pair", _SHARE_FACTOR, along / allowed),
            ):
                self._found.append((name, what, factor, torch.nan_to_num(squared, nan=math.inf).max()))

    def failure(self, what: str) -> str | None:
        """Return by how much the worst result since the last question was off, or None; `what` gave it."""
        found = [(name, where, factor, float(x)) for name, where, factor, x in self._found]
        self._found.clear()
        none = ("", "", 1.0, 0.0)
        name, where, factor, most = max(found, key=lambda entry: entry[3] / entry[2], default=none)
        if most <= factor:
            return None
        budget = self._reference.budgets[name]
        size = "NaN or Inf" if math.isinf(most) else f"{most * budget:.1e}"
        return (
            f"{what} gave another {name} than the call that was checked: off by {size} {where}, "
            f"the budget there is {factor * budget:.1e}"
        )

    def odd(self, what: str, results: object) -> str | None:
        """Return how the results differ in kind from the first ones, or None."""
        return odd_kind(what, results, self.kinds)


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


def odd_kind(what: str, results: object, kinds: Kinds) -> str | None:
    """Return how the results that `what` gave differ in kind from what they must be, or None."""
    if not isinstance(results, dict) or results.keys() != kinds.keys() & results.keys():
        return f"{what} gave results of other names than the call that was checked"
    for name, x in results.items():
        if (reason := plain_tensor(name, x)) is not None:
            return reason
        if (x.shape, x.dtype, x.device) != kinds[name]:
            return f"{what} gave {name} as {x.dtype} {tuple(x.shape)} on {x.device}"
    return None


def plain_tensor(name: str, x: object) -> str | None:
    """Return why a result is not a tensor that is there, whole and in memory, or None."""
    if type(x) is not Tensor and type(x) is not torch.nn.Parameter:
        return f"{name} is a {type(x).__module__}.{type(x).__qualname__}, not a plain tensor"
    if x.layout != torch.strided or x.is_quantized or x.is_nested:
        return f"{name} is not a dense tensor"
    if any(stride == 0 and size > 1 for stride, size in zip(x.stride(), x.shape, strict=True)):
        return f"{name} is expanded: several of its elements are one in memory"
    return None
