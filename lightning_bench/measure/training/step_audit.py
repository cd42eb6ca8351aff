"""The audit of training steps: in drawn ones, attention and its gradients are compared with fp64.

In a step that nobody can foresee, what the attention of a drawn layer takes and gives is copied, of one drawn
pair of batch entry and head. These pairs are judged after the last sample: whatever a provider does once it
is timed, its results are those of its family or they are not.

The copies stay on the device, where all of them take less than half of what one layer keeps for its backward
pass: a device that waits for copies to the host cools down meanwhile, and is faster in the next step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor

from lightning_bench.case import Shape
from lightning_bench.measure.oracle import pairs_in_time
from lightning_bench.measure.reservoir import Reservoir, below
from lightning_bench.measure.sight import off_by, pair_of
from lightning_bench.models.language_model import Attend, LanguageModel
from lightning_bench.models.model_sizes import ModelSize

# Solved twice each, so that judging takes about a second.
_MOST = 8


@dataclass
class Sight:
    """What the attention of a pair took and gave in a step: q, k, v, o, do, dq, dk and dv, each [n, ·]."""

    step: int
    layer: int
    batch: int
    head: int
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"timed step {self.step}, layer {self.layer}, batch {self.batch}, head {self.head}"


class StepAudit:
    """Watches the steps of one model of `size` and `shape`; `slopes` has those of each layer, [heads]."""

    def __init__(self, size: ModelSize, shape: Shape, slopes: list[Tensor]) -> None:
        self._size, self._shape, self._slopes = size, shape, slopes
        pairs = pairs_in_time(size.layer_shape(shape, 0), size.family)
        self._drawn = Reservoir(max(2, min(_MOST, pairs // 2)))
        self.sights: list[Sight] = []

    @contextmanager
    def step(self, model: LanguageModel) -> Iterator[None]:
        """Look at the step that is taken in the block if it is drawn, in place of one that was looked at."""
        if (place := self._drawn.place()) is None:
            yield
            return
        shape, size = self._shape, self._size
        sight = Sight(self._drawn.events, below(size.layers), below(shape.batch), below(size.heads))
        attends = model.attends
        attends[sight.layer] = _watched(attends[sight.layer], sight)
        with model.attending(attends):
            yield
        self.sights[place : place + 1] = [sight]

    def failure(self, seed: int) -> str | None:
        """Return why what was seen cannot be right, or None."""
        return next(filter(None, (self._failure(sight, seed) for sight in self.sights)), None)

    @property
    def checks(self) -> str:
        """What was judged, for the row."""
        of = f"{len(self.sights)} of {self._drawn.events} timed steps"
        return f"attention and gradients of {of}, a pair of each"

    def _failure(self, sight: Sight, seed: int) -> str | None:
        if "o" not in sight.tensors or "do" not in sight.tensors:
            return f"in {sight} no gradient has come to its output"
        slope = self._slopes[sight.layer][sight.head : sight.head + 1]
        reason = off_by(self._size.family, self._shape.dtype, sight.tensors, slope, seed)
        return f"in {sight} {reason}" if reason else None


def _watched(attend: Attend, sight: Sight) -> Attend:
    """Return attention that notes what it takes and gives, when it is called first.

    Hooks are added behind the call: it finds its inputs as in every other step. What recomputes a layer calls
    it again, and its gradients are those of the first call.
    """

    pair = partial(pair_of, batch=sight.batch, head=sight.head)

    def note(name: str, x: Tensor) -> None:
        def hook(gradient: Tensor) -> None:
            sight.tensors[name] = pair(gradient)

        if x.requires_grad:
            x.register_hook(hook)

    def watched(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if "q" in sight.tensors:
            return attend(q, k, v)
        sight.tensors |= {"q": pair(q), "k": pair(k), "v": pair(v)}
        o = attend(q, k, v)
        sight.tensors["o"] = pair(o)
        for name, x in (("do", o), ("dq", q), ("dk", k), ("dv", v)):
            note(name, x)
        return o

    return watched
