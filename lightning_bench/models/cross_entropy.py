"""Cross entropy in few passes over the logits, as an operator that torch.compile leaves as it is.

Forward reads the logits once; backward reads them once and writes their gradient, as the Triton kernels of
flash-attn do (flash_attn/ops/triton/cross_entropy.py).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_BLOCK = 4096


def summed_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the summed cross entropy, nats, fp32 or fp64: of logits [tokens, words], targets int64 [tokens].

    On a GPU our kernels compute it, but for fp64: that is torch's, by which models are judged.
    """
    if logits.is_cuda and logits.dtype != torch.float64:
        losses: Tensor = cross_entropy(logits, targets)[0]
        return losses.sum()
    at_least_fp32 = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return functional.cross_entropy(at_least_fp32, targets, reduction="sum")


@torch.library.custom_op("lightning_bench::cross_entropy", mutates_args=())
def cross_entropy(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return losses, highest logits, and sums of e to the logits less these, all fp32 [tokens].

    A target that is no word has a loss of NaN. Only the losses have a gradient.
    """
    from lightning_bench.models.cross_entropy_kernels import loss_kernel

    logits, targets, (tokens, words) = logits.contiguous(), targets.contiguous(), logits.shape
    found = _of_tokens(logits)
    with torch.cuda.device_of(logits):
        loss_kernel[(tokens,)](logits, targets, *found, words, BLOCK=_BLOCK, num_warps=8)
    return found


@torch.library.custom_op("lightning_bench::cross_entropy_gradient", mutates_args=())
def _gradient(logits: Tensor, targets: Tensor, tops: Tensor, sums: Tensor, upstream: Tensor) -> Tensor:
    """Return the gradient of the logits for that of the losses, `upstream` fp32 [tokens]."""
    from lightning_bench.models.cross_entropy_kernels import gradient_kernel

    logits, targets, upstream = logits.contiguous(), targets.contiguous(), upstream.contiguous()
    gradient, (tokens, words) = _like(logits), logits.shape
    grid = (tokens, -(-words // _BLOCK))
    with torch.cuda.device_of(logits):
        gradient_kernel[grid](
            logits, targets, tops, sums, upstream, gradient, words, BLOCK=_BLOCK, num_warps=8
        )
    return gradient


def _of_tokens(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    first, second, third = (logits.new_empty(logits.shape[0], dtype=torch.float32) for _ in range(3))
    return first, second, third


def _like(logits: Tensor) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, *output[1:])
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx: Any, upstream: Tensor, *_: Any) -> tuple[Tensor, None]:
    return _gradient(*ctx.saved_tensors, upstream), None


cross_entropy.register_fake(lambda logits, targets: _of_tokens(logits))
cross_entropy.register_autograd(_backward, setup_context=_keep)
_gradient.register_fake(lambda logits, *_: _like(logits))
