"""The gate: memory of outputs holds NaN, so that rows which are never written do not pass."""

from __future__ import annotations

import pytest
import torch

from lightning_bench.case import Family
from lightning_bench.measure.gate import poisoned
from lightning_bench.measure.inputs import InputSet
from tests.support.judged import PLAIN, failure, gate, right, shape, tensors


@pytest.mark.parametrize("gradients", [True, False])
def test_poison_leaves_the_inputs_alone(gradients: bool) -> None:
    inputs = InputSet(shape("bf16"), seed=0)
    inputs.inputs("bnhd")
    before = [x.clone() for x in (inputs.q, inputs.k, inputs.v, inputs.do)]
    with poisoned(inputs, gradients=gradients):
        pass
    for x, y in zip((inputs.q, inputs.k, inputs.v, inputs.do), before, strict=True):
        assert torch.equal(x, y)
    assert torch.equal(inputs.inputs("bnhd").q, before[0].transpose(1, 2))


def test_poison_ends_with_the_call() -> None:
    mode = torch.get_deterministic_debug_mode()
    with pytest.raises(ZeroDivisionError), poisoned(InputSet(shape(), seed=0), gradients=True):
        1 / 0  # noqa: B018
    assert torch.get_deterministic_debug_mode() == mode


@pytest.mark.parametrize("n", [5, 150, 2048])
@pytest.mark.parametrize("family", PLAIN)
def test_memory_that_was_never_written_does_not_pass(family: Family, n: int) -> None:
    inputs, reference = gate(family, shape("fp32", n, b=1, h=2), gradients=False)
    for _ in range(5):
        answer = tensors(right(family), inputs)["o"]
        del answer  # what an earlier provider leaves behind
        with poisoned(inputs, gradients=False):
            got = torch.empty_like(inputs.v)
        message = failure(reference, {"o": got})
        assert message == f"o has NaN or Inf in {2 * n} of {2 * n} rows"


def test_a_row_that_was_never_written_does_not_pass() -> None:
    inputs, reference = gate("linear_decay", shape("bf16"), gradients=False)
    answer = tensors(right("linear_decay"), inputs)["o"]
    with poisoned(inputs, gradients=False):
        got = torch.empty_like(answer)
    got[:, :, :-1] = answer[:, :, :-1]
    assert failure(reference, {"o": got}) == "o has NaN or Inf in 6 of 900 rows"
