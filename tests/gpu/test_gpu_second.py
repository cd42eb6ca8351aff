"""The second implementation of long softmax attention on a GPU, against fp64 and against providers."""

from __future__ import annotations

import time

import pytest
import torch

from lightning_bench.case import DTYPES, Dtype, Family, Shape
from lightning_bench.measure.deviation import judge
from lightning_bench.measure.inputs import InputSet
from lightning_bench.measure.oracle import Reference
from lightning_bench.measure.second import consult_second
from lightning_bench.providers import get_provider

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("default"),  # other libraries' warnings are not ours
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", ["softmax", "vq"])
@pytest.mark.parametrize("value_dim", [128, 64])
def test_every_pair_of_long_attention_is_judged(family: Family, dtype: Dtype, value_dim: int) -> None:
    inputs = InputSet(Shape(4, 32, 8192, 128, value_dim, dtype, "cuda"), seed=0)
    reference = Reference(family, inputs, gradients=True, seed=0)
    sample = len(reference.pairs)
    assert not reference.sketches
    torch.cuda.synchronize()
    begin = time.perf_counter()
    consult_second(family, reference)
    torch.cuda.synchronize()
    print(f"{family} {dtype}: {time.perf_counter() - begin:.2f} s")
    assert (reference.judged_pairs, reference.judged_by_second) == (128, 128 - sample)


@pytest.mark.parametrize("name", ["sdpa-flash", "sdpa-cudnn", "sdpa-efficient"])
def test_providers_pass_and_a_pair_that_is_left_out_does_not(name: str) -> None:
    inputs = InputSet(Shape(4, 32, 8192, 128, 128, "bf16", "cuda"), seed=0)
    reference = Reference("softmax", inputs, gradients=True, seed=0)
    consult_second("softmax", reference)
    given = inputs.inputs("bhnd")
    o = get_provider(name).build(given)()
    grads = torch.autograd.grad(o, (given.q, given.k, given.v), inputs.grad_output("bhnd"))
    got = dict(zip(("o", "dq", "dk", "dv"), (o.detach(), *grads), strict=True))
    assert judge(reference, got, "bhnd").failure is None
    print(f"{name}: {reference.judged_by_second} pairs left to the second implementation")
    b, h = next((b, h) for h in range(32) for b in range(4) if (b, h) not in reference.pairs)
    for x in got.values():
        x[b, h, 100] = 0.0
    failure = judge(reference, got, "bhnd").failure or ""
    assert failure.count(f"in batch {b}, head {h}, row 100") == 4
