"""The kernels of the cross entropy against torch's: in Triton's interpreter where there is no GPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lightning_bench.models.cross_entropy import cross_entropy, summed_cross_entropy

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def inputs(tokens: int, words: int, dtype: torch.dtype, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(words)
    logits = scale * torch.randn(tokens, words, generator=generator, dtype=torch.float64)
    targets = torch.randint(words, (tokens,), generator=generator)
    return logits.to(DEVICE, dtype).requires_grad_(), targets.to(DEVICE)


@pytest.mark.parametrize("words", [1, 2, 255, 4096, 4097, 9000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_and_gradients_are_those_of_torch_in_fp64(words: int, dtype: torch.dtype) -> None:
    logits, targets = inputs(5, words, dtype)
    exact = logits.detach().double().requires_grad_()
    weights = torch.linspace(-1, 2, 5, device=DEVICE)
    losses = cross_entropy(logits, targets)[0]
    wanted = functional.cross_entropy(exact, targets, reduction="none")
    torch.testing.assert_close(losses, wanted.float(), rtol=1e-6, atol=1e-5)
    (losses * weights).sum().backward()
    (wanted * weights).sum().backward()
    assert logits.grad is not None
    assert exact.grad is not None
    tolerance = 1e-6 if dtype == torch.float32 else 2**-7  # one step of bf16, which the interpreter cuts off
    torch.testing.assert_close(logits.grad, exact.grad.to(dtype), rtol=tolerance, atol=1e-6)


def test_any_range_of_logits_is_right() -> None:
    """Logits far apart overflow nothing, words that are impossible have no share, and rows may be strided."""
    logits, targets = inputs(4, 5000, torch.float32, scale=100.0)
    whole = logits.detach().clone()
    whole[0, :4096] = -torch.inf
    whole[1] += 1e4
    targets[0] = 4999
    strided = whole.t().contiguous().t().requires_grad_()
    losses = cross_entropy(strided, targets)[0]
    wanted = functional.cross_entropy(whole.double(), targets, reduction="none")
    torch.testing.assert_close(losses.double(), wanted, rtol=1e-5, atol=1e-3)
    losses.sum().backward()
    assert strided.grad is not None
    assert (strided.grad[0, :4096] == 0).all()
    torch.testing.assert_close(strided.grad.sum(1), torch.zeros(4, device=DEVICE), rtol=0, atol=1e-4)


def test_what_is_no_number_stays_none() -> None:
    logits, targets = inputs(3, 300, torch.float32)
    changed = logits.detach().clone()
    changed[1, 7] = torch.nan
    targets[2] = 300
    losses = cross_entropy(changed, targets)[0]
    assert losses.isnan().tolist() == [False, True, True]


def test_the_operator_keeps_what_torch_asks_of_one() -> None:
    logits, targets = inputs(3, 300, torch.float32)
    torch.library.opcheck(cross_entropy, (logits, targets))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_sum_is_in_fp32_at_least(dtype: torch.dtype) -> None:
    logits, targets = inputs(4, 100, dtype)
    total = summed_cross_entropy(logits, targets)
    assert total.dtype == torch.promote_types(dtype, torch.float32)
    wanted = functional.cross_entropy(logits.double(), targets, reduction="sum")
    torch.testing.assert_close(total.double(), wanted, rtol=1e-5, atol=0)


def test_a_compiled_function_calls_the_operator() -> None:
    logits, targets = inputs(4, 100, torch.float32)

    def loss(logits: Tensor) -> Tensor:
        return cross_entropy(2 * logits, targets)[0].sum()

    compiled = torch.compile(loss, fullgraph=True, dynamic=False, backend="aot_eager")
    results = []
    for function in (loss, compiled):
        logits.grad = None
        total = function(logits)
        total.backward()
        results.append((total.detach(), logits.grad))
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)
