"""Slopes of layers, packed documents and grouped heads on a real GPU: they agree with the oracle."""

from __future__ import annotations

import pytest
import torch

from lightning_bench.case import Direction, Shape
from lightning_bench.measure.calls import direction_call
from lightning_bench.measure.deviation import judge
from lightning_bench.measure.inputs import InputSet
from lightning_bench.measure.oracle import Reference
from lightning_bench.providers import get_provider
from lightning_bench.variant import Part, Variant

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("default"),  # other libraries' warnings are not ours
]

# fla-fused-chunk and lightning-official do not agree at all of these lengths: their rows say so.
PROVIDERS = ("lightning2", "lightning2-torch", "fla-chunk", "fla-recurrent")
DOCUMENTS = (1500, 64, 1, 333, 64, 100, 7)
VARIANTS = (
    Variant(layer=Part(0, 80), rank=Part(0, 8)),
    Variant(layer=Part(79, 80), rank=Part(7, 8)),
    Variant(documents=DOCUMENTS),
    Variant(layer=Part(79, 80), rank=Part(7, 8), documents=DOCUMENTS),
    Variant(kv_heads=2),
    Variant(kv_heads=1, layer=Part(40, 80), documents=DOCUMENTS),
)


@pytest.mark.parametrize("direction", ["fwd", "bwd"])
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: str(variant).strip("-"))
@pytest.mark.parametrize("name", PROVIDERS)
def test_it_agrees_with_the_oracle(name: str, variant: Variant, direction: Direction) -> None:
    if name.startswith("fla"):
        pytest.importorskip("fla.ops")
    shape = Shape(1, 4, sum(variant.documents) or 2069, 128, 128, "bf16", "cuda", variant)
    provider = get_provider(name)
    provider.load()
    if reason := provider.unsupported(shape, direction):
        pytest.skip(reason)
    inputs = InputSet(shape, 0)
    reference = Reference(provider.family, inputs, gradients=direction == "bwd", seed=0)
    verdict = judge(reference, direction_call(provider, inputs, direction).tensors(), provider.layout)
    assert verdict.failure is None
