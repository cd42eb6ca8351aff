"""What the tests of the judge need: small shapes, plain attention that is right, and what it gives."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_bench.case import Dtype, Family, Layout, Shape
from lightning_bench.measure.deviation import judge
from lightning_bench.measure.gate import TENSORS
from lightning_bench.measure.inputs import InputSet
from lightning_bench.measure.oracle import Reference
from lightning_kernels import lightning_attn2_torch

Tensors = dict[str, Tensor]
Attention = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
PLAIN: list[Family] = ["linear_decay", "linear", "softmax"]  # the others: test_families_*.py
LAYOUTS: list[Layout] = ["bhnd", "bnhd"]


def shape(dtype: Dtype = "fp32", n: int = 150, b: int = 2, h: int = 3, d: int = 16, e: int = 16) -> Shape:
    """Return a small shape on the CPU."""
    return Shape(b, h, n, d, e, dtype, "cpu")


def right(family: Family) -> Attention:
    """Compute in the dtype of the inputs, [b, h, n, d], independently of the oracle."""
    if family == "softmax":
        sdpa = torch.nn.functional.scaled_dot_product_attention
        return lambda q, k, v, s: sdpa(q, k, v, is_causal=True)
    return lambda q, k, v, s: lightning_attn2_torch(q, k, v, s if family == "linear_decay" else None)


def tensors(attention: Attention, inputs: InputSet, layout: Layout = "bhnd") -> Tensors:
    """Output and gradients as a provider in `layout` gives them."""

    def turn(x: Tensor) -> Tensor:
        return x if layout == "bhnd" else x.transpose(1, 2)

    given = inputs.inputs(layout)
    o = turn(attention(turn(given.q), turn(given.k), turn(given.v), given.decay))
    grads = torch.autograd.grad(o, (given.q, given.k, given.v), inputs.grad_output(layout))
    return dict(zip(TENSORS, (o.detach(), *grads), strict=True))


def exact(reference: Reference, inputs: InputSet) -> Tensors:
    """Return the reference's own results in fp64, [b, h, n, d]; every pair must be among those checked."""
    b, h = inputs.shape.batch, inputs.shape.heads
    assert len(reference.pairs) == b * h
    return {name: x.unflatten(0, (b, h)).clone() for name, x in reference.tensors.items()}


def gate(family: Family, of: Shape, *, gradients: bool = True) -> tuple[InputSet, Reference]:
    """Return normal inputs and what is right on them."""
    inputs = InputSet(of, seed=0)
    return inputs, Reference(family, inputs, gradients=gradients, seed=0)


def failure(reference: Reference, got: Tensors, layout: Layout = "bhnd") -> str:
    """Return why results are wrong, as they must be."""
    verdict = judge(reference, got, layout)
    assert verdict.failure is not None
    return verdict.failure
