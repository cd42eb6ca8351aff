"""The gate of generation: a small model's prefill and cached steps against one pass over all tokens in fp64.

The model chooses its own tokens. Then the same model reads prompt and tokens in one pass, with exact
attention in fp64 and no cache. Every step must have the logits of that pass, within a multiple of the error
that one pass has in the case's dtype, and must have chosen a token that no other beats by more than that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lightning_bench.case import Dtype, Shape
from lightning_bench.measure.generation.generator import SPAN, Generator
from lightning_bench.measure.training.model_gate import (
    FACTOR,
    drawn,
    relative_error,
    seeded,
    slopes_of_layers,
)
from lightning_bench.model_run import ModelRun
from lightning_bench.models.byte_text import ByteText
from lightning_bench.models.model_sizes import ModelSize
from lightning_bench.models.plugged_attention import build_model, exact_attention
from lightning_bench.providers.dtypes import torch_dtype
from lightning_bench.providers.registry.base import Provider

BATCH, NEW = 3, 12
PROMPTS = {5: 8, SPAN - NEW // 2: SPAN}
"""Lengths of the prompts, and spans of which the steps reach the next: after few tokens each one counts."""
# Two logits of a step may each be off, and the largest of many errors is several times the typical one.
_OFF = 10.0


@dataclass(frozen=True)
class GenerationErrors:
    """Relative L2 error of the logits of all steps, its budget, and what failed.

    Of the `chosen` tokens, `agreed` are those that fp64 would have chosen.
    """

    logits: float
    budget: float
    chosen: int
    agreed: int
    failure: str | None

    @property
    def checks(self) -> str:
        """What was judged, for the row."""
        return (
            f"small model: prefill and {NEW - 1} cached steps after {' and '.join(map(str, PROMPTS))} tokens "
            f"against one pass in fp64, "
            f"{self.agreed} of {self.chosen} greedy tokens the same"
        )


def judge_generation(
    size: ModelSize, provider: Provider, dtype: Dtype, shape: Shape, seed: int
) -> GenerationErrors:
    """Compare the small form of a model on a loaded provider with fp64, on the device of `shape`."""
    small, run = size.small(), ModelRun(size.name, new_tokens=NEW)
    of = replace(shape, batch=BATCH, dtype=dtype, model_run=run)
    found = [_judged(small, provider, replace(of, seq_len=n), seed, span) for n, span in PROMPTS.items()]
    worst = max(found, key=lambda each: (each.failure is not None, each.logits / each.budget))
    chosen, agreed = sum(each.chosen for each in found), sum(each.agreed for each in found)
    return replace(worst, chosen=chosen, agreed=agreed)


def _judged(small: ModelSize, provider: Provider, of: Shape, seed: int, span: int) -> GenerationErrors:
    with seeded(of.device, seed):
        generator = Generator(small, provider, of, span=span)
        weights = drawn(generator.model)
        prompt = ByteText(of.device, seed).batch(BATCH, of.seq_len)[0]
        found = torch.stack([generator.prefill(prompt), *generator.steps(NEW - 1)], dim=1).double()
        tokens = torch.cat([prompt, generator.new], dim=1)

        @torch.no_grad()
        def one_pass(dtype: torch.dtype) -> Tensor:
            slopes = slopes_of_layers(small, of)
            model = build_model(small, exact_attention(small), slopes, tokens.shape[1], dtype)
            model.load_state_dict(weights)
            return model.logits(tokens)[:, of.seq_len - 1 : -1].double()

        right, rounded = one_pass(torch.float64), one_pass(torch_dtype(of.dtype))
    return compared(found, rounded, right, generator.new, FACTOR[of.dtype])


def missed_by(logits: Tensor, chosen: Tensor) -> Tensor:
    """Return by how much the logit of each token chosen is below the largest, over their root mean square.

    Logits are [batch, tokens, vocabulary], tokens [batch, tokens].
    """
    of_chosen = logits.gather(-1, chosen[..., None])[..., 0]
    return (logits.amax(-1) - of_chosen) / logits.square().mean(-1).sqrt()


def compared(
    found: Tensor, rounded: Tensor, right: Tensor, chosen: Tensor, factor: float
) -> GenerationErrors:
    """Compare logits [batch, steps, vocabulary] in fp64; judge the tokens [batch, steps] that they chose."""
    budget = factor * relative_error(rounded, right)
    # Each step by itself: one that is wrong could hide among the others.
    pairs = zip(found.unbind(1), right.unbind(1), strict=True)
    errors = [relative_error(mine, theirs) for mine, theirs in pairs]
    worst = max(range(len(errors)), key=lambda step: (math.isnan(errors[step]), errors[step]))
    missed = float(missed_by(right, chosen).max())
    failure = None
    if not errors[worst] <= budget:
        failure = (
            f"the logits of new token {worst + 1} of {len(errors)} are off by {errors[worst]:.2g} and may be "
            f"by {budget:.2g}"
        )
    elif not missed <= _OFF * budget:
        failure = (
            f"a greedy token is not the likeliest: its logit is below the largest by {missed:.2g} of their "
            f"root mean square, and may be by {_OFF * budget:.2g}"
        )
    if failure:
        failure = f"in a small model against one pass in fp64, {failure}"
    agreed = int((right.argmax(-1) == chosen).sum())
    return GenerationErrors(errors[worst], budget, chosen.numel(), agreed, failure)
