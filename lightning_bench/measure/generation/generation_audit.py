"""The audit of a generation: attention of drawn layers at the real length of prompts, against fp64.

The small model of the gate has prompts of up to 250 tokens, and the likeliest tokens of a large one hardly
change if distant tokens are left out. So what the attention took and gave is looked at itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_bench.case import Dtype
from lightning_bench.measure.reservoir import below
from lightning_bench.measure.sight import EVERY_TOKEN, off_by, pair_of
from lightning_bench.models.language_model import Attend, LanguageModel
from lightning_bench.models.model_sizes import ModelSize

_NAMES = ("q", "k", "v", "o")


@dataclass
class GenerationSight:
    """What one layer's attention of a pair took and gave: of the prompt, then of each token that was fed."""

    layer: int
    batch: int
    head: int
    calls: list[tuple[Tensor, ...]] = field(default_factory=list)

    def failure(self, size: ModelSize, dtype: Dtype, slopes: list[Tensor], seed: int) -> str | None:
        """Return why this cannot be right, or None; the prompt and each token that was fed count alone."""
        seen = {
            name: torch.cat(parts) for name, parts in zip(_NAMES, zip(*self.calls, strict=True), strict=True)
        }
        prompt = len(self.calls[0][0])
        fed = [slice(at, at + 1) for at in range(prompt, len(seen["q"]))]
        slope = slopes[self.layer][self.head : self.head + 1]
        reason = off_by(size.family, dtype, seen, slope, seed, [EVERY_TOKEN, *fed])
        where = f"layer {self.layer}, batch {self.batch}, head {self.head}"
        return f"after a prompt of {prompt} tokens, in {where}, {reason}" if reason else None


@contextmanager
def looking(model: LanguageModel, size: ModelSize, batch: int) -> Iterator[list[GenerationSight]]:
    """Look at what the first layer and a drawn one compute in the block, which begins with a prompt."""
    layers = dict.fromkeys((0, below(size.layers)))
    sights = [GenerationSight(layer, below(batch), below(size.heads)) for layer in layers]
    attends = model.attends
    for sight in sights:
        attends[sight.layer] = _noted(attends[sight.layer], sight)
    with model.attending(attends):
        yield sights


def _noted(attend: Attend, sight: GenerationSight) -> Attend:
    def noted(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        taken = [pair_of(x, sight.batch, sight.head) for x in (q, k, v)]
        o = attend(q, k, v)
        sight.calls.append((*taken, pair_of(o, sight.batch, sight.head)))
        return o

    return noted
