"""Pairs that fp64 has no time for: judged by a second implementation, which itself is never the last word."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from lightning_bench.case import DTYPES, Dtype, Family, Shape
from lightning_bench.measure import oracle, second
from lightning_bench.measure.deviation import judge
from lightning_bench.measure.guard import GUARD
from lightning_bench.measure.inputs import InputSet
from lightning_bench.measure.oracle import Reference, Solver
from lightning_bench.measure.second import consult_second
from lightning_bench.providers import get_provider
from tests.support.exploits import partial
from tests.support.judged import Tensors, right, tensors
from tests.support.measure_jobs import TIMES, Measure, given

FAMILIES: list[Family] = ["softmax", "softmax_full", "vq"]
SHAPE = Shape(2, 10, 70, 16, 8, "fp32", "cpu")
Solve = Callable[..., Tensors]


@pytest.fixture(autouse=True)
def little_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the oracle take two pairs, as it does of long sequences."""
    monkeypatch.setattr(GUARD, "_kept", [])  # or it would find what comes next
    monkeypatch.setitem(oracle._ORACLE_WORK, "cpu", 1.0)
    monkeypatch.setitem(oracle._ALL_WORK, "cpu", 1.0)


def reference(family: Family, shape: Shape = SHAPE) -> tuple[InputSet, Reference]:
    inputs = InputSet(shape, seed=0)
    reference = Reference(family, inputs, gradients=True, seed=0)
    assert not reference.sketches
    consult_second(family, reference)
    return inputs, reference


def answers(inputs: InputSet) -> Tensors:
    return tensors(right("softmax"), inputs)


def perturbed(monkeypatch: pytest.MonkeyPatch, where: Callable[[torch.Tensor], Iterator[int]]) -> None:
    """Make the second implementation wrong in some of the pairs that it is asked for, given their q."""
    solve: Solve = second.solve_fused

    def wrong(family: Family, problem: oracle.Problem, *, gradients: bool) -> Tensors:
        found = solve(family, problem, gradients=gradients)
        for pair in where(problem.q):
            found["o"][pair] *= 1.5
        return found

    monkeypatch.setattr(second, "solve_fused", wrong)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_pair_is_known_and_right_answers_pass(family: Family, dtype: Dtype) -> None:
    inputs, known = reference(family, Shape(2, 4, 150, 24, 16, dtype, "cpu"))
    sample = len(known.pairs)
    assert sample < 8
    assert (known.judged_pairs, known.judged_by_second) == (8, 8 - sample)
    assert known.sketches.keys() == known.tensors.keys()
    own = inputs.of(family)
    leaves = own.inputs("bhnd")
    name = {"softmax": "sdpa-math", "softmax_full": "sdpa-math-full", "vq": "vq-sdpa"}[family]
    o = get_provider(name).build(leaves)()
    grads = torch.autograd.grad(o, [leaves[name] for name in own.gradients], own.grad_output("bhnd"))
    got = {"o": o.detach(), **{f"d{name}": x for name, x in zip(own.gradients, grads, strict=True)}}
    assert judge(known, got, "bhnd").failure is None


@pytest.mark.parametrize("name", ["o", "dq", "dk", "dv"])
def test_one_wrong_row_of_one_pair_is_found_and_settled(name: str) -> None:
    inputs, known = reference("softmax")
    got = answers(inputs)
    got[name][1, 3, 40] *= 1.01
    failure = judge(known, got, "bhnd").failure or ""
    assert failure.startswith(f"{name} is off by")
    assert failure.partition("the budget")[0].endswith("in batch 1, head 3, row 40, ")
    assert float(known.known[1, 3]) == 1.0
    assert known.judged_by_second == 17
    assert judge(known, answers(inputs), "bhnd").failure is None


def test_where_the_second_implementation_is_wrong_nobody_else_is(monkeypatch: pytest.MonkeyPatch) -> None:
    perturbed(monkeypatch, lambda q: iter([3] if len(q) > 2 else []))
    inputs, known = reference("softmax")
    assert known.judged_by_second == 18
    assert judge(known, answers(inputs), "bhnd").failure is None
    assert (known.judged_pairs, known.judged_by_second) == (20, 17)
    got = answers(inputs)
    got["o"][0, 5, 7] = 0.0
    assert judge(known, got, "bhnd").failure


def test_one_that_is_wrong_everywhere_else_judges_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    perturbed(monkeypatch, lambda q: iter(range(len(q)) if len(q) > 2 else []))
    inputs, known = reference("softmax")
    assert judge(known, answers(inputs), "bhnd").failure is None
    assert (known.judged_pairs, known.judged_by_second) == (18, 0)


def test_one_that_is_wrong_in_the_sample_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    perturbed(monkeypatch, lambda q: iter([1] if len(q) == 2 else []))
    _, known = reference("softmax")
    assert (known.judged_pairs, known.judged_by_second, known.sketches) == (2, 0, {})


@pytest.mark.parametrize("error", [NotImplementedError, RuntimeError("No available kernel")])
def test_one_that_fails_is_not_asked(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fails(*args: object, **more: object) -> Solver:
        raise error

    monkeypatch.setattr(second, "solve_fused", fails)
    _, known = reference("softmax")
    assert (known.judged_pairs, known.sketches) == (2, {})


def test_what_would_take_long_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(second._WORK, "cpu", 1.0)
    _, known = reference("softmax")
    assert (known.judged_pairs, known.sketches) == (2, {})


def test_families_without_a_second_implementation_keep_their_sample() -> None:
    inputs = InputSet(SHAPE, seed=0)
    known = Reference("linear_decay", inputs, gradients=True, seed=0)
    consult_second("linear_decay", known)
    assert (known.judged_pairs, known.sketches) == (2, {})


@pytest.mark.parametrize("direction", ["fwd", "fwd_bwd"])
def test_an_honest_provider_of_long_softmax_gets_its_time(measure: Measure, direction: str) -> None:
    row = measure("Softmax", direction=direction, shape=SHAPE)["Softmax"]
    assert row.status in ("ok", "unstable"), row.reason
    assert row.figures.checks.startswith("20 of 20 pairs, 18 of them by torch's fused kernel; ")


def test_pairs_outside_of_the_sample_cannot_be_left_out(measure: Measure) -> None:
    spec = f"{partial.__file__}:OnlyBothEnds"
    (row,) = measure(others=(spec,), direction="fwd", shape=SHAPE).outcomes
    assert row.status == "wrong"
    assert row.reason.startswith("o is off by")
    assert not TIMES & given(row.figures)
