"""The gate of generation: right caches pass, and a flaw in what is kept, or in a choice, is found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_bench.case import Dtype, Shape
from lightning_bench.measure.generation.generation_gate import NEW, compared, judge_generation
from lightning_bench.models.model_sizes import MODELS
from lightning_bench.providers import Provider, get_provider
from lightning_bench.providers.registry.decoding import AttentionCache, CacheSpec, NextToken

CPU = Shape(1, 1, 1, 1, 1, "fp32", "cpu")
TNL, LLAMA = ("tnl-tiny", "lightning2-torch"), ("llama-tiny", "sdpa-flash")


def loaded(name: str) -> Provider:
    provider = get_provider(name)
    provider.load()
    return provider


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize(("model", "provider"), [TNL, LLAMA])
def test_cached_steps_have_the_logits_of_one_pass(model: str, provider: str, dtype: Dtype) -> None:
    errors = judge_generation(MODELS[model], loaded(provider), dtype, CPU, seed=1)
    assert errors.failure is None
    assert 0 < errors.logits < errors.budget < (1e-5 if dtype == "fp32" else 0.1)
    assert errors.chosen == 2 * 3 * NEW
    assert errors.agreed > 0.9 * errors.chosen
    assert f"{errors.agreed} of 72 greedy tokens" in errors.checks


class Flawed(Provider):
    """A provider whose caches are changed after they are made."""

    def __init__(self, of: Provider, change: Callable[[Any], None]) -> None:
        self.of, self.change = of, change

    def cache(self, spec: CacheSpec) -> AttentionCache:
        cache = self.of.cache(spec)
        self.change(cache)
        return cache


def no_decay_in_steps(cache: Any) -> None:
    decode = cache._decode
    cache._decode = lambda q, k, v, s, **state: decode(q, k, v, 0 * s, **state)


def prompt_is_lost(cache: Any) -> None:
    attend = cache._attend

    def zeros(*args: Tensor, **how: object) -> tuple[Tensor, Tensor]:
        o, state = attend(*args, **how)
        return o, 0 * state

    cache._attend = zeros


def steps_are_not_kept(cache: Any) -> None:
    decode = cache._decode
    cache._decode = lambda q, k, v, s, state: decode(q, k, v, s, state=state.clone())


def sees(more: int) -> Callable[[Any], None]:
    def change(cache: Any) -> None:
        step = cache.step

        def shifted(q: Tensor, k: Tensor, v: Tensor, token: NextToken) -> Tensor:
            later = torch.arange(len(token.mask)) > token.position + more
            mask = torch.zeros_like(token.mask).masked_fill_(later, -torch.inf)
            return step(q, k, v, NextToken(token.position, token.lengths, mask))

        cache.step = shifted

    return change


FLAWS = {
    "no decay in steps": (TNL, no_decay_in_steps),
    "the prompt is lost": (TNL, prompt_is_lost),
    "steps are not kept": (TNL, steps_are_not_kept),
    "a token does not see itself": (LLAMA, sees(-1)),
    "a place that no token fills is seen": (LLAMA, sees(1)),
}


@pytest.mark.parametrize("flaw", FLAWS)
def test_a_flaw_of_a_cache_is_found(flaw: str) -> None:
    (model, provider), change = FLAWS[flaw]
    errors = judge_generation(MODELS[model], Flawed(loaded(provider), change), "bf16", CPU, seed=1)
    assert "against one pass in fp64, the logits of new token" in str(errors.failure)


def test_a_token_that_its_logits_do_not_choose_is_found() -> None:
    torch.manual_seed(0)
    right = torch.randn(2, 5, 50, dtype=torch.float64)
    rounded = right + 1e-4 * torch.randn_like(right)
    best = right.argmax(-1)
    assert compared(rounded, rounded, right, best, 2.5).failure is None
    other = best.clone()
    other[1, 3] = right[1, 3].topk(2).indices[1]
    found = compared(rounded, rounded, right, other, 2.5)
    assert "a greedy token is not the likeliest" in str(found.failure)
    assert (found.agreed, found.chosen) == (9, 10)
    missing = rounded.clone()
    missing[0, 2] = torch.nan
    assert "the logits of new token 3 of 5 are off by nan" in str(
        compared(missing, rounded, right, best, 2.5).failure
    )
