"""The judge: what is right passes in every dtype, each kind of wrong fails and says how."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lightning_bench.case import DISTRIBUTIONS, DTYPES, Distribution, Dtype, Family, Layout
from lightning_bench.measure.deviation import judge
from lightning_bench.measure.gate import TENSORS
from lightning_bench.measure.inputs import InputSet
from lightning_bench.measure.oracle import Reference
from lightning_kernels import lightning_attn2_torch
from tests.support.judged import LAYOUTS, PLAIN, Attention, exact, failure, gate, right, shape, tensors


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", PLAIN)
def test_what_is_right_passes(family: Family, dtype: Dtype, layout: Layout) -> None:
    inputs, reference = gate(family, shape(dtype))
    verdict = judge(reference, tensors(right(family), inputs, layout), layout)
    assert verdict.failure is None
    assert list(verdict.errors) == list(TENSORS)
    assert verdict.budget == max(reference.budgets.values())
    # Right on its own account: rounding shows in every tensor, and stays within the budget of each.
    assert all(0 < verdict.errors[name] <= reference.budgets[name] for name in TENSORS)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", PLAIN)
def test_what_is_right_passes_on_other_inputs(
    family: Family, dtype: Dtype, distribution: Distribution
) -> None:
    for seed in range(4):
        inputs = InputSet(shape(dtype, 256, b=1, h=2, d=32, e=32), seed, distribution)
        reference = Reference(family, inputs, gradients=True, seed=seed)
        assert judge(reference, tensors(right(family), inputs), "bhnd").failure is None


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", PLAIN)
def test_a_fourth_too_much_fails_on_any_inputs(
    family: Family, dtype: Dtype, distribution: Distribution
) -> None:
    inputs = InputSet(shape(dtype), 0, distribution)
    reference = Reference(family, inputs, gradients=True, seed=0)
    larger: Attention = lambda q, k, v, s: 1.25 * right(family)(q, k, v, s)  # noqa: E731
    message = failure(reference, tensors(larger, inputs))
    # Most gradients of softmax on small inputs are less than fp16 can hold.
    names = TENSORS if (family, dtype, distribution) != ("softmax", "fp16", "small") else ("o", "dv")
    assert all(f"{name} is off by" in message for name in names)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", PLAIN)
@pytest.mark.parametrize("n", [1, 2, 5, 64, 65, 1030])
def test_lengths_that_fill_no_tile_pass(n: int, family: Family, dtype: Dtype) -> None:
    inputs, reference = gate(family, shape(dtype, n, b=1, h=2, e=8, d=8))
    assert judge(reference, tensors(right(family), inputs), "bhnd").failure is None


def test_a_forward_pass_is_judged_without_gradients() -> None:
    inputs, reference = gate("linear_decay", shape(), gradients=False)
    o = tensors(right("linear_decay"), inputs)["o"]
    verdict = judge(reference, {"o": o}, "bhnd")
    assert verdict.failure is None
    assert list(verdict.errors) == ["o"]
    assert list(reference.budgets) == ["o"]


@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", PLAIN)
def test_errors_just_below_the_budget_pass_and_just_above_fail(
    family: Family, dtype: Dtype, name: str
) -> None:
    inputs, reference = gate(family, shape(dtype))
    budget = reference.budgets[name]
    for factor, passes in ((0.98, True), (1.02, False)):
        got = exact(reference, inputs)
        got[name] *= 1.0 + factor * budget
        verdict = judge(reference, got, "bhnd")
        assert verdict.errors[name] == pytest.approx(factor * budget)
        assert (verdict.failure is None) == passes
    assert verdict.failure is not None
    assert verdict.failure.startswith(f"{name} is off by ")
    assert verdict.failure.endswith(f"relative L2, the budget is {budget:.1e}")


@pytest.mark.parametrize("family", PLAIN)
def test_budgets_scale_with_the_dtype(family: Family) -> None:
    budgets = {dtype: gate(family, shape(dtype))[1].budgets for dtype in DTYPES}
    for name in TENSORS:
        assert budgets["fp32"][name] < 5e-6
        assert 5e-4 < budgets["fp16"][name] < 4e-3
        assert 6.0 < budgets["bf16"][name] / budgets["fp16"][name] < 10.0
        assert budgets["bf16"][name] < 0.03


def masked(offset: int, family: Family) -> Attention:
    """Attention whose causal mask is off by `offset`: −1 hides the diagonal, 1 lets the next key in."""

    def attention(q: Tensor, k: Tensor, v: Tensor, s: Tensor) -> Tensor:
        steps = torch.arange(q.shape[2])
        distance = steps[:, None] - steps
        scores = q.float() @ k.float().mT
        seen = distance >= -offset
        if family == "softmax":
            hidden = scores.masked_fill(~seen, -1e30) / math.sqrt(q.shape[3])
            return (hidden.softmax(-1) @ v.float()).to(q.dtype)
        decay = torch.exp(-s[:, None, None] * distance)
        return ((scores * decay * seen) @ v.float()).to(q.dtype)

    return attention


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("family", ["softmax", "linear_decay"])
def test_a_mask_that_is_off_by_one_fails(family: Family, dtype: Dtype) -> None:
    inputs, reference = gate(family, shape(dtype))
    assert judge(reference, tensors(masked(0, family), inputs), "bhnd").failure is None
    for offset in (-1, 1):
        message = failure(reference, tensors(masked(offset, family), inputs))
        assert all(f"{name} is off by" in message for name in TENSORS)


@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize("family", PLAIN)
def test_rows_left_out_fail(family: Family, name: str) -> None:
    inputs, reference = gate(family, shape("bf16"))
    got = tensors(right(family), inputs)
    rows = slice(0, 3) if name in ("dk", "dv") else slice(-3, None)
    got[name][:, :, rows] = 0
    assert failure(reference, got).startswith(f"{name} is off by ")
    assert ";" not in failure(reference, got)


@pytest.mark.slow
@pytest.mark.parametrize("where", [0, 31, 63])
@pytest.mark.parametrize("family", ["linear_decay", "softmax"])
def test_one_wrong_tile_of_a_long_sequence_fails(family: Family, where: int) -> None:
    inputs, reference = gate(family, shape("bf16", 4096, b=1, h=1, d=8, e=8), gradients=False)
    o = exact(reference, inputs)["o"]
    tile = slice(64 * where, 64 * where + 64)
    typical = float(o.norm()) / 8
    wrong = 6 * reference.budgets["o"] * max(1.0, typical / float(o[:, :, tile].norm()))
    o[:, :, tile] *= 1.0 + wrong
    verdict = judge(reference, {"o": o}, "bhnd")
    if family == "linear_decay":  # too little to show over the whole: only the tile gives it away
        assert verdict.errors["o"] < reference.budgets["o"]
    assert verdict.failure is not None
    if verdict.errors["o"] < reference.budgets["o"]:
        assert "in one tile of 64 rows, the budget there is" in verdict.failure


def zero_token(o: Tensor) -> None:
    o[0, 1, 700] = 0


def halved_token(o: Tensor) -> None:
    o[0, 0, -1] *= 0.5


def larger_half(o: Tensor) -> None:
    o[:, :, 1024:] *= 1.02


@pytest.mark.parametrize("damage", [zero_token, halved_token, larger_half])
@pytest.mark.parametrize("family", ["linear_decay", "softmax"])
def test_little_that_is_wrong_in_bf16_fails(family: Family, damage: Callable[[Tensor], None]) -> None:
    inputs, reference = gate(family, shape("bf16", 2048, b=1, h=2), gradients=False)
    o = tensors(right(family), inputs)["o"]
    assert judge(reference, {"o": o}, "bhnd").failure is None
    damage(o)
    assert failure(reference, {"o": o}).startswith("o is off by ")


def test_late_queries_that_miss_sixteen_keys_fail_in_bf16() -> None:
    inputs, reference = gate("softmax", shape("bf16", 2048, b=1, h=1), gradients=False)
    given, steps = inputs.inputs("bhnd"), torch.arange(2048)
    seen = (steps[:, None] >= steps) & ~((steps[:, None] >= 1900) & (steps >= 500) & (steps < 516))
    sdpa = torch.nn.functional.scaled_dot_product_attention
    with torch.no_grad():
        o = sdpa(given.q, given.k, given.v, attn_mask=seen)
    assert failure(reference, {"o": o}).startswith("o is off by ")


@pytest.mark.parametrize("family", PLAIN)
def test_a_pair_outside_the_sample_is_judged_by_its_sketch(family: Family) -> None:
    of = shape("bf16", 64, b=4, h=8)
    inputs, reference = gate(family, of)
    b, h = next((b, h) for b in range(of.batch) for h in range(of.heads) if (b, h) not in reference.pairs)
    got = tensors(right(family), inputs)
    assert judge(reference, got, "bhnd").failure is None
    got["dv"][b, h] = got["dv"][b, h - 1]
    assert f"in batch {b}, head {h}, row" in failure(reference, got)


def test_a_short_last_tile_is_judged_by_its_own_size() -> None:
    inputs, reference = gate("linear_decay", shape("bf16", 4096 + 8, b=1, h=1), gradients=False)
    o = exact(reference, inputs)["o"]
    o[:, :, 4096:] *= 1.0 + 8 * reference.budgets["o"]
    verdict = judge(reference, {"o": o}, "bhnd")
    assert verdict.errors["o"] < reference.budgets["o"]
    assert "in one tile of 64 rows" in (verdict.failure or "")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_nan_in_one_gradient_fails(bad: float) -> None:
    inputs, reference = gate("linear_decay", shape("fp16"))
    got = tensors(right("linear_decay"), inputs)
    got["dk"][1, 2, 77, 3] = bad
    assert failure(reference, got) == "dk has NaN or Inf in 1 of 900 rows"


def test_all_nan_is_counted_by_rows() -> None:
    inputs, reference = gate("softmax", shape())
    got = tensors(right("softmax"), inputs)
    got["o"] = torch.full_like(got["o"], math.nan)
    assert failure(reference, got) == "o has NaN or Inf in 900 of 900 rows"


def test_a_wrong_shape_fails_without_an_error_figure() -> None:
    inputs, reference = gate("linear_decay", shape(d=16, e=8))
    got = tensors(right("linear_decay"), inputs)
    assert judge(reference, got, "bhnd").failure is None
    got["dq"] = got["dq"][:, :, :-1]
    verdict = judge(reference, got, "bhnd")
    assert verdict.failure == "dq has shape (2, 3, 149, 16), not (2, 3, 150, 16)"
    assert list(verdict.errors) == ["o", "dk", "dv"]
    assert failure(reference, got, "bnhd").startswith(
        "o has shape (2, 3, 150, 8), not (2, 150, 3, 8): that is layout bhnd, and bnhd is asked for "
        "(--layout); dq has shape (2, 3, 149, 16), not (2, 150, 3, 16); dk has"
    )
    got["dq"] = got["dk"]
    got["o"] = torch.cat([got["o"], got["o"]], -1)
    assert failure(reference, got).startswith("o has shape (2, 3, 150, 16), not (2, 3, 150, 8)")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("family", PLAIN)
def test_two_heads_that_changed_places_fail(family: Family, layout: Layout) -> None:
    inputs, reference = gate(family, shape("bf16"))
    got = tensors(right(family), inputs, layout)
    got["dv"] = got["dv"].index_select(1 if layout == "bhnd" else 2, torch.tensor([1, 0, 2]))
    assert failure(reference, got, layout).startswith("dv is off by ")


def test_the_decay_of_another_head_fails() -> None:
    inputs, reference = gate("linear_decay", shape("bf16"))
    flipped: Attention = lambda q, k, v, s: lightning_attn2_torch(q, k, v, s.flip(0))  # noqa: E731
    assert "o is off by" in failure(reference, tensors(flipped, inputs))


def tf32(x: Tensor) -> Tensor:
    """Round to the 10 bits of mantissa that TF32 keeps; gradients pass as they are."""
    bits = x.detach().contiguous().view(torch.int32)
    rounded = ((bits + 0x1000) & ~0x1FFF).view(torch.float32)
    return x + (rounded - x).detach()


@pytest.mark.parametrize("family", PLAIN)
def test_tf32_in_fp32_fails_with_a_hint(family: Family) -> None:
    inputs, reference = gate(family, shape("fp32"))
    attention = right(family)
    got = tensors(lambda q, k, v, s: attention(tf32(q), tf32(k), tf32(v), s), inputs)
    message = failure(reference, got)
    assert message.startswith("o is off by ")
    assert "(what TF32 or bf16 gives), the budget is" in message
    got["o"] = got["o"] * 1.1
    assert "TF32" not in failure(reference, {"o": got["o"]})


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_scale_is_named_and_nothing_else_is_taken_for_one(dtype: Dtype) -> None:
    inputs, reference = gate("linear_decay", shape(dtype))
    attention = right("linear_decay")
    message = failure(reference, tensors(lambda q, k, v, s: attention(q * 0.25, k, v, s), inputs))
    assert message.count("relative L2 (0.25 times what is right: a scale?)") == 4
    other = tensors(lambda q, k, v, s: attention(q, k, v, 2 * s), inputs)
    assert "scale" not in failure(reference, other)
    assert "scale" not in failure(reference, {"o": torch.zeros_like(other["o"])})


def test_no_hint_of_tf32_in_other_dtypes() -> None:
    inputs, reference = gate("linear", shape("fp16"))
    got = exact(reference, inputs)
    got["o"] *= 1.004
    assert "TF32" not in failure(reference, got)


@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_of_one_token_has_zero_gradients(dtype: Dtype) -> None:
    inputs, reference = gate("softmax", shape(dtype, n=1))
    assert float(reference.tensors["dq"].norm()) < 1e-13
    got = tensors(right("softmax"), inputs)
    assert judge(reference, got, "bhnd").failure is None
    for name in ("dq", "dk"):
        wrong = {**got, name: torch.full_like(got[name], 0.1)}
        assert failure(reference, wrong).startswith(f"{name} is off by ")
