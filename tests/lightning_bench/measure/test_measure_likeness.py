"""Later results: what one row may be off by, all rows of a pair may not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_bench.case import Dtype
from lightning_bench.measure.likeness import Likeness
from lightning_bench.measure.oracle import Reference
from lightning_bench.measure.signs import no_signs
from tests.support.judged import Tensors, gate, right, shape, tensors

PARTS = {"every pair": (slice(None), slice(None)), "one pair": (1, 2)}


def likeness_of(dtype: Dtype) -> tuple[Likeness, Reference, Tensors]:
    """Return what compares with the right results of a plain implementation, and these."""
    inputs, reference = gate("linear_decay", shape(dtype))
    first = tensors(right("linear_decay"), inputs)
    return Likeness(reference, "bhnd", first, no_signs(first["o"])), reference, first


def failure(likeness: Likeness, results: Tensors) -> str | None:
    likeness.compare(results, no_signs(results["o"]))
    return likeness.failure("a timed call")


def noise(x: Tensor, size: float) -> Tensor:
    """Return x with an error of this size in every row, relative to the row."""
    error = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    return x + size * error * x.norm(dim=-1, keepdim=True) / error.norm(dim=-1, keepdim=True)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_results_within_two_budgets_are_alike(dtype: Dtype) -> None:
    likeness, reference, first = likeness_of(dtype)
    assert failure(likeness, first) is None
    moved = {name: noise(x.float(), 1.5 * reference.budgets[name]) for name, x in first.items()}
    assert failure(likeness, moved) is None


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", ["o", "dq", "dk", "dv"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_an_error_of_all_rows_of_a_pair_is_found(dtype: Dtype, name: str, part: str) -> None:
    likeness, reference, first = likeness_of(dtype)
    for wrong, where in (
        (noise(first[name].float(), 8 * reference.budgets[name]), "over all rows of a pair"),
        (first[name].float() * (1 + 5 * reference.budgets[name]), "of itself in a pair"),
    ):
        results = {each: x.float().clone() for each, x in first.items()}
        results[name][PARTS[part]] = wrong[PARTS[part]]
        reason = failure(likeness, results)
        assert reason is not None
        assert reason.startswith(f"a timed call gave another {name} than the call that was checked")
        assert where in reason


def test_what_is_not_finite_is_found() -> None:
    likeness, _, first = likeness_of("fp32")
    first["o"][0, 0, 3, 1] = torch.nan
    assert "NaN or Inf" in (failure(likeness, first) or "")
