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
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
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
    # One step of bf16, which the interpreter cuts off, where fp32 is exact.
    tolerance = {torch.float32: 1e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}[dtype]
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


def test_rows_and_targets_may_lie_anywhere() -> None:
    """Strides of any kind, also 0, and int32: as of tensors that lie side by side."""
    logits, targets = inputs(4, 300, torch.float32)
    row, spread = logits.detach()[0], torch.stack((targets, targets.flip(0)), dim=1)[:, 0].int()
    weights = torch.linspace(-1, 2, 8, device=DEVICE)[::2]
    for each, wanted in ((logits, spread), (row.expand(4, 300), spread), (logits, targets[1].expand(4))):
        results = []
        for x, word in ((each, wanted), (each.contiguous(), wanted.long().contiguous())):
            leaf = x.detach().requires_grad_()
            losses = cross_entropy(leaf, word)[0]
            results.append((losses.detach(), *torch.autograd.grad(losses, leaf, weights)))
        torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


@pytest.mark.filterwarnings(
    "ignore:invalid value|divide by zero:RuntimeWarning"
)  # NumPy's, in the interpreter
def test_what_is_no_number_stays_none() -> None:
    """NaN, an infinite logit, no possible word, and targets on either side of the words: as torch has it."""
    logits, targets = inputs(7, 5000, torch.float32)
    changed = logits.detach().clone()
    changed[1, 4500] = torch.nan
    changed[2, 7] = torch.inf
    changed[3] = -torch.inf
    targets[4:6] = torch.tensor([5000, -1])
    changed.requires_grad_()
    losses = cross_entropy(changed, targets)[0]
    assert losses.isnan().tolist() == [False, True, True, True, True, True, False]
    (gradient,) = torch.autograd.grad(losses.sum(), changed)
    assert gradient.isnan().any(1).tolist() == [False, True, True, True, False, False, False]


def test_an_impossible_target_has_an_infinite_loss() -> None:
    logits, targets = inputs(2, 300, torch.float32)
    changed = logits.detach().clone()
    changed[1, targets[1]] = -torch.inf
    assert cross_entropy(changed, targets)[0].isposinf().tolist() == [False, True]


def test_no_tokens_have_no_loss() -> None:
    logits, targets = inputs(0, 300, torch.float32)
    losses = cross_entropy(logits, targets)[0]
    assert losses.shape == (0,)
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    assert gradient.shape == (0, 300)


def test_a_block_that_is_not_full_writes_its_words_only() -> None:
    from lightning_bench.models.cross_entropy_kernels import gradient_kernel

    logits, targets = inputs(2, 300, torch.float32)
    _, tops, sums = cross_entropy(logits.detach(), targets)
    written = torch.full((3, 300), 7.0, device=DEVICE)
    gradient_kernel[(2, 1)](logits.detach(), targets, tops, sums, sums, written, 300, BLOCK=512)
    assert (written[:2] != 7).all()
    assert (written[2] == 7).all()


def test_only_losses_have_a_gradient() -> None:
    assert [found.requires_grad for found in cross_entropy(*inputs(3, 300, torch.float32))] == [
        True,
        False,
        False,
    ]


@pytest.mark.parametrize("strided", [False, True])
def test_the_operators_keep_what_torch_asks_of_one(strided: bool) -> None:
    logits, targets = inputs(3, 300, torch.float32)
    if strided:
        logits = logits.detach().t().contiguous().t().requires_grad_()
    torch.library.opcheck(cross_entropy, (logits, targets))
    losses, tops, sums = cross_entropy(logits.detach(), targets)
    gradient = torch.ops.lightning_bench.cross_entropy_gradient.default
    torch.library.opcheck(gradient, (logits.detach(), targets, tops, sums, losses))


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
