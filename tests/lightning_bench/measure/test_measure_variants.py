"""Layers, ranks, kv heads and packed documents: their inputs, their oracle, and who fails the gate."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lightning_bench.case import Case, Direction, Family, Shape
from lightning_bench.families import Problem, definition_of
from lightning_bench.families.packed import solve_packed
from lightning_bench.measure.deviation import judge
from lightning_bench.measure.inputs import InputSet, decay_slopes, slopes_of
from lightning_bench.measure.oracle import Reference, choose_pairs
from lightning_bench.measure.signs import InputSigns
from lightning_bench.providers.registry.base import Inputs
from lightning_bench.variant import Part, Variant
from lightning_kernels import layer_slopes, lightning_attn2_torch
from tests.support.judged import gate

PACKED = Variant(documents=(70, 3, 1, 64, 12, 3))
GROUPED = Variant(kv_heads=2)
UPPER = Variant(layer=Part(79, 80), rank=Part(7, 8))
ALL = Variant(2, Part(40, 80), Part(3, 4), PACKED.documents)
VARIANTS = pytest.mark.parametrize("variant", [PACKED, GROUPED, UPPER, ALL], ids=str)

Call = Callable[[Inputs], Tensor]


def of(variant: Variant, heads: int = 4, batch: int = 1, n: int = 153) -> Shape:
    n = sum(variant.documents) or n
    return Shape(batch, heads, n, 16, 8, "fp32", "cpu", variant)


def honest(given: Inputs) -> Tensor:
    return lightning_attn2_torch(given.q, given.k, given.v, given.decay, cu_seqlens=given.cu_seqlens)


def results(call: Call, inputs: InputSet) -> dict[str, Tensor]:
    given = inputs.inputs("bhnd")
    o = call(given)
    grads = torch.autograd.grad(o, (given.q, given.k, given.v), inputs.grad_output("bhnd"))
    return {"o": o.detach(), **dict(zip(("dq", "dk", "dv"), grads, strict=True))}


def why_wrong(call: Call, shape: Shape) -> str | None:
    inputs, reference = gate("linear_decay", shape)
    return judge(reference, results(call, inputs), "bhnd").failure


@VARIANTS
def test_an_honest_provider_passes(variant: Variant) -> None:
    assert why_wrong(honest, of(variant)) is None
    if not variant.documents:
        assert why_wrong(honest, of(variant, batch=3)) is None


def test_a_provider_that_ignores_the_documents_fails() -> None:
    def ignores(given: Inputs) -> Tensor:
        return lightning_attn2_torch(given.q, given.k, given.v, given.decay)

    assert why_wrong(ignores, of(PACKED)) is not None


@pytest.mark.parametrize("late", [1, -1])
def test_a_provider_that_starts_a_document_a_token_late_or_early_fails(late: int) -> None:
    def starts_late(given: Inputs) -> Tensor:
        assert given.cu_seqlens is not None
        moved = given.cu_seqlens.clone()
        moved[1] += late
        return lightning_attn2_torch(given.q, given.k, given.v, given.decay, cu_seqlens=moved)

    assert why_wrong(starts_late, of(PACKED)) is not None


@pytest.mark.parametrize("wrong", [Variant(rank=Part(7, 8)), Variant(layer=Part(79, 80)), Variant()], ids=str)
def test_a_provider_with_the_slopes_of_another_layer_or_rank_fails(wrong: Variant) -> None:
    def other_slopes(given: Inputs) -> Tensor:
        return lightning_attn2_torch(given.q, given.k, given.v, slopes_of(of(wrong)))

    assert why_wrong(other_slopes, of(UPPER)) is not None


def test_a_provider_that_gives_kv_heads_to_the_wrong_heads_fails() -> None:
    def interleaved(given: Inputs) -> Tensor:
        k, v = (x.repeat(1, 2, 1, 1) for x in (given.k, given.v))  # head i reads i % 2, not i // 2
        return lightning_attn2_torch(given.q, k, v, given.decay)

    assert why_wrong(interleaved, of(GROUPED)) is not None


def test_a_provider_that_forgets_a_head_in_the_gradient_of_k_fails() -> None:
    shape = of(GROUPED)
    inputs, reference = gate("linear_decay", shape)
    got = results(honest, inputs)
    alone = inputs.inputs("bhnd")
    q = alone.q.detach().clone()
    q[:, 1] = 0  # as if head 1 took no part in the sum
    lost = results(honest, inputs) | {
        "dk": results(lambda x: honest(x.replaced({"q": q + 0 * x.q})), inputs)["dk"]
    }
    assert judge(reference, got, "bhnd").failure is None
    failure = judge(reference, lost, "bhnd").failure
    assert failure is not None
    assert failure.startswith("dk")


def test_slopes_are_those_of_the_bundled_layers() -> None:
    for rank, layer in ((0, 0), (7, 40), (7, 79), (3, 60)):
        shape = of(Variant(layer=Part(layer, 80), rank=Part(rank, 8)), heads=8)
        wanted = layer_slopes(64, layer, 80).flatten()[8 * rank : 8 * rank + 8]
        torch.testing.assert_close(slopes_of(shape), wanted)
    assert torch.equal(slopes_of(of(Variant(rank=Part(2, 3)))), decay_slopes(12)[8:])


@pytest.mark.parametrize("family", ["linear_decay", "softmax", "rwkv6", "gated_delta"])
def test_the_oracle_solves_each_document_by_itself(family: Family) -> None:
    defined = definition_of(family)
    inputs = InputSet(of(PACKED), seed=3).of(family)
    given = inputs.inputs("bhnd")

    def rows(x: Tensor, axes: str) -> Tensor:
        return x[0].detach().double() if "b" in axes else x.detach().double()

    named = {name: rows(given[name], spec.axes) for name, spec in defined.inputs.items()}
    more = {name: x for name, x in named.items() if name not in ("q", "k", "v")}
    do = inputs.grad_output("bhnd")[0].double()
    whole = Problem(named["q"], named["k"], named["v"], do, inputs.decay.double(), more, PACKED.documents)
    got = solve_packed(defined, whole, gradients=True)
    start = 0
    for length in PACKED.documents:
        tokens = slice(start, start + length)
        cut = {
            name: x[:, tokens]
            for name, x in {**named, "do": do}.items()
            if name == "do" or "n" in defined.inputs[name].axes
        }
        alone = defined.solve(whole.replaced(cut).unpacked(), gradients=True)
        for name, x in alone.items():
            if x.shape[1:2] == (length,):
                torch.testing.assert_close(got[name][:, tokens], x)
        start += length
    for name in defined.gradients:
        if "n" not in defined.inputs[name].axes:
            assert got[f"d{name}"].shape == named[name].shape


def test_the_judge_takes_whole_groups_of_heads() -> None:
    shape = Shape(8, 32, 2048, 64, 64, "fp32", "cpu", Variant(kv_heads=8))
    pairs = choose_pairs(shape, "linear_decay", 0)
    assert len({(b, h // 4) for b, h in pairs}) * 4 == len(pairs)
    assert pairs[:4] == [(0, 0), (0, 1), (0, 2), (0, 3)]
    assert pairs[-1] == (7, 31)


@VARIANTS
@pytest.mark.parametrize("direction", ["fwd", "bwd", "fwd_bwd"])
def test_results_change_with_the_signs_as_said(variant: Variant, direction: Direction) -> None:
    shape = of(variant)
    inputs = InputSet(shape, seed=1)
    reference = Reference("linear_decay", inputs, gradients=True, seed=0)
    signs_of = InputSigns(Case(shape, "any", direction), "linear_decay", inputs.signed("bhnd"))
    names = ["o"] if direction == "fwd" else ["o", "dq", "dk", "dv"]
    first, own = results(honest, inputs), signs_of.own()
    signs_of.hold(new=True)
    signs = signs_of.change()
    again = results(honest, inputs)
    for name in names:
        sketcher = reference.sketcher
        before, after = (sketcher.sketch(name, x[name], "bhnd", s) for x, s in ((first, own), (again, signs)))
        torch.testing.assert_close(before.values, after.values)


def test_packed_inputs_have_the_starts_and_are_watched() -> None:
    inputs = InputSet(of(PACKED), seed=0)
    given = inputs.inputs("bnhd")
    assert given.cu_seqlens is not None
    assert given.cu_seqlens.tolist() == [0, 70, 73, 74, 138, 150, 153]
    assert given.cu_seqlens.dtype == torch.int32
    inputs.note_bytes("bnhd")
    given.cu_seqlens[1] = 0
    assert inputs.written("bnhd") == "it changes its inputs: cu_seqlens"
