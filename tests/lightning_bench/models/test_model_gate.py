"""The gate of a model: it passes every attention that is right, and none that is wrong in a part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lightning_bench.case import Dtype, Shape
from lightning_bench.measure.training.model_gate import judge_model
from lightning_bench.models.model_sizes import MODELS
from lightning_bench.providers import Inputs, Provider, get_provider

CPU = Shape(1, 1, 1, 1, 1, "fp32", "cpu")
PAIRS = [
    ("tnl-0.4b", "lightning2-torch"),
    ("tnl-tiny", "lightning2-torch"),
    ("llama-0.4b", "sdpa-math"),
    ("llama-tiny", "sdpa-flash"),
]


def loaded(name: str) -> Provider:
    provider = get_provider(name)
    provider.load()
    return provider


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize(("model", "provider"), PAIRS)
def test_models_on_right_attention_pass(model: str, provider: str, dtype: Dtype) -> None:
    errors = judge_model(MODELS[model], loaded(provider), dtype, CPU, seed=1)
    assert errors.failure is None
    assert 0 < errors.logits < errors.budget
    assert errors.budget < (1e-5 if dtype == "fp32" else 0.1)


class Wrong(Provider):
    """The provider `of` with changed inputs, and with a changed output."""

    def __init__(
        self,
        of: Provider,
        inputs: Callable[[Inputs], Inputs] = lambda x: x,
        output: Callable[[Tensor], Tensor] = lambda o: o,
    ) -> None:
        self.of, self.inputs, self.output = of, inputs, output
        self.layout, self.family = of.layout, of.family  # type: ignore[misc]

    def build(self, inputs: Inputs) -> Callable[[], Tensor]:
        call = self.of.build(self.inputs(inputs))
        return lambda: self.output(call())


def last_token_zero(o: Tensor) -> Tensor:
    return torch.cat([o[:, :, :-1], torch.zeros_like(o[:, :, -1:])], dim=2)


OF_DECAY: dict[str, dict[str, Callable[..., object]]] = {
    "no decay": {"inputs": lambda x: replace(x, decay=0 * x.decay)},
    "slopes of other heads": {"inputs": lambda x: replace(x, decay=x.decay.flip(0))},
}
# TransNormerLLM's norm behind the attention takes any scale away.
OF_SOFTMAX: dict[str, dict[str, Callable[..., object]]] = {
    "another scale": {"inputs": lambda x: replace(x, q=x.q * 1.1)},
}
OF_ALL: dict[str, dict[str, Callable[..., object]]] = {
    "no gradient of k": {"inputs": lambda x: replace(x, k=x.k.detach())},
    "no gradient of q": {"inputs": lambda x: replace(x, q=x.q.detach())},
    "the last token zero": {"output": last_token_zero},
}


FLAWED = [
    (*pair, flaw) for pair, own in ((PAIRS[1], OF_DECAY), (PAIRS[3], OF_SOFTMAX)) for flaw in own | OF_ALL
]


@pytest.mark.parametrize(("model", "provider", "flaw"), FLAWED)
def test_a_flaw_of_the_attention_is_found(model: str, provider: str, flaw: str) -> None:
    wrong = Wrong(loaded(provider), **(OF_DECAY | OF_SOFTMAX | OF_ALL)[flaw])  # type: ignore[arg-type]
    errors = judge_model(MODELS[model], wrong, "bf16", CPU, seed=1)
    assert errors.failure is not None
    assert " is off by " in errors.failure


def test_the_failure_names_the_tensor() -> None:
    wrong = Wrong(loaded("sdpa-math"), inputs=lambda x: replace(x, k=x.k.detach()))
    errors = judge_model(MODELS["llama-tiny"], wrong, "fp32", CPU, seed=1)
    assert "qkv.weight[k] is off by" in str(errors.failure)
    assert errors.gradient > 0.9
