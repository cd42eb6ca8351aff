"""The backward of linear attention with decay, which is linear attention three times.

    dq = LA(do, v, k),   dk = LAʳ(v, do, q),   dv = LAʳ(k, q, do)

LAʳ walks from the last token to the first: LAʳ(q, k, v)_i = Σ_{j≥i} exp(−s·(j−i)) (q_i·k_j) v_j.
An implementation gives one function that writes LA or LAʳ into a tensor and gets its gradients here.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Core = Callable[[Tensor, Tensor, Tensor, Tensor | None, Tensor, bool], None]
"""`core(q, k, v, slopes, out, reverse)` writes LA(q, k, v), or LAʳ where `reverse`, into `out`."""


class DecayAttention(torch.autograd.Function):
    """`DecayAttention.apply(q, k, v, slopes, core)`; q, k, v and slopes alone are saved for backward."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, slopes: Tensor | None, core: Core) -> Tensor:
        """Compute o = LA(q, k, v), laid out in memory as v is."""
        ctx.save_for_backward(q, k, v, slopes)
        ctx.core = core
        out = _like(v)
        core(q, k, v, slopes, out, False)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, do: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        """Compute those of dq, dk and dv that are asked for, each laid out as its input is."""
        q, k, v, slopes = ctx.saved_tensors
        core: Core = ctx.core
        dq = dk = dv = None
        if ctx.needs_input_grad[0]:
            dq = _like(q)
            core(do, v, k, slopes, dq, False)
        if ctx.needs_input_grad[1]:
            dk = _like(k)
            core(v, do, q, slopes, dk, True)
        if ctx.needs_input_grad[2]:
            dv = _like(v)
            core(k, q, do, slopes, dv, True)
        return dq, dk, dv, None, None


def _like(tensor: Tensor) -> Tensor:
    """Allocate what `tensor` is, laid out alike unless its last dim would not be contiguous."""
    out = torch.empty_like(tensor)
    if out.stride(-1) != 1:
        del out
        out = torch.empty_like(tensor, memory_format=torch.contiguous_format)
    return out


def attend(q: Tensor, k: Tensor, v: Tensor, slopes: Tensor | None, core: Core) -> Tensor:
    """Call `DecayAttention` with a typed result."""
    out: Tensor = DecayAttention.apply(q, k, v, slopes, core)  # type: ignore[no-untyped-call]
    return out
