"""The shared tensors: slopes, seeds, layouts, leaves."""

from __future__ import annotations

import pytest
import torch

from lightning_bench.case import DTYPES, Dtype, Family, Layout, Shape
from lightning_bench.measure.inputs import InputSet, decay_slopes
from lightning_bench.providers.dtypes import torch_dtype
from lightning_kernels import build_slope_tensor

SHAPE = Shape(2, 3, 50, 8, 5, "fp32", "cpu")


@pytest.mark.parametrize("heads", range(1, 41))
def test_slopes_are_those_of_the_kernels(heads: int) -> None:
    slopes = decay_slopes(heads)
    assert slopes.dtype == torch.float32
    assert torch.equal(slopes, build_slope_tensor(heads).flatten())


def test_slopes_known_from_the_paper() -> None:
    assert decay_slopes(8).tolist() == [2.0**-i for i in range(1, 9)]
    assert decay_slopes(3).tolist() == [2.0**-4, 2.0**-8, 2.0**-2]
    assert decay_slopes(1).tolist() == [2.0**-8]


def test_layouts_hold_the_same_values_each_contiguous() -> None:
    inputs = InputSet(SHAPE, seed=1)
    plain, turned = inputs.inputs("bhnd"), inputs.inputs("bnhd")
    for name, dim in (("q", 8), ("k", 8), ("v", 5)):
        a, b = getattr(plain, name), getattr(turned, name)
        assert a.shape == (2, 3, 50, dim)
        assert b.shape == (2, 50, 3, dim)
        assert torch.equal(a, b.transpose(1, 2))
        assert a.is_contiguous()
        assert b.is_contiguous()
    assert torch.equal(inputs.grad_output("bhnd"), inputs.grad_output("bnhd").transpose(1, 2))
    assert inputs.grad_output("bnhd").shape == (2, 50, 3, 5)
    assert torch.equal(plain.decay, decay_slopes(3))


@pytest.mark.parametrize("layout", ["bhnd", "bnhd"])
def test_leaves_require_gradients_and_the_rest_does_not(layout: str) -> None:
    inputs = InputSet(SHAPE, seed=1)
    given = inputs.inputs(layout)
    for x in (given.q, given.k, given.v):
        assert x.requires_grad
        assert x.is_leaf
        assert x.grad is None
    assert not given.decay.requires_grad
    assert not inputs.grad_output(layout).requires_grad
    assert not any(x.requires_grad for x in (inputs.q, inputs.k, inputs.v, inputs.do))


@pytest.mark.parametrize("layout", ["bhnd", "bnhd"])
def test_what_was_written_to_is_named(layout: Layout) -> None:
    inputs = InputSet(SHAPE, seed=1)
    inputs.note_bytes(layout)
    assert inputs.written(layout) is None
    given = inputs.inputs(layout)
    given.k.data.copy_(given.k.data.flip(0))
    inputs.grad_output(layout).neg_()
    inputs.note_bytes(layout)  # too late to count
    assert inputs.written(layout) == "it changes its inputs: k, the gradient of o"
    inputs.take(InputSet(SHAPE, seed=1))
    assert inputs.written(layout) is None


@pytest.mark.parametrize("family", ["linear_decay", "gla"])
def test_signs_of_every_layout_are_taken_back(family: Family) -> None:
    common = InputSet(SHAPE, seed=1)
    inputs = common.of(family)
    signed = [x for layout in ("bhnd", "bnhd") for x in inputs.signed(layout)]
    for layout in ("bhnd", "bnhd"):
        inputs.note_bytes(layout)
    for x in signed:
        x.to(-torch.ones_like(x.signs))
    assert [inputs.written(layout) is None for layout in ("bhnd", "bnhd")] == [False, False]
    common.own_signs()
    assert [inputs.written(layout) is None for layout in ("bhnd", "bnhd")] == [True, True]


def test_a_layout_is_made_once() -> None:
    inputs = InputSet(SHAPE, seed=1)
    assert inputs.inputs("bnhd") is inputs.inputs("bnhd")
    assert inputs.grad_output("bhnd") is inputs.grad_output("bhnd")


@pytest.mark.parametrize("dtype", DTYPES)
def test_seed_decides_the_values(dtype: Dtype) -> None:
    shape = Shape(1, 2, 64, 16, 16, dtype, "cpu")
    first, again, other = InputSet(shape, 3), InputSet(shape, 3), InputSet(shape, 4)
    for name in ("q", "k", "v", "do"):
        x = getattr(first, name)
        assert x.dtype == torch_dtype(dtype)
        assert torch.equal(x, getattr(again, name))
        assert not torch.equal(x, getattr(other, name))
    tensors = [first.q, first.k, first.v, first.do]
    assert all(not torch.equal(a, b) for i, a in enumerate(tensors) for b in tensors[:i])


def test_values_are_standard_normal() -> None:
    inputs = InputSet(Shape(2, 4, 512, 32, 32, "bf16", "cpu"), seed=0)
    for x in (inputs.q, inputs.k, inputs.v, inputs.do):
        assert float(x.double().mean()) == pytest.approx(0.0, abs=0.02)
        assert float(x.double().std()) == pytest.approx(1.0, abs=0.02)
        assert float(x.double().abs().max()) > 3.0
