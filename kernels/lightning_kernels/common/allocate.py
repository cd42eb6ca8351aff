"""What an implementation of linear attention with decay is, and how a forward and a backward are made of it.

An implementation is one function, a `Core`. With X_t = λ·X_{t−1} + k_tᵀ v_t the forward is o = scale·q·X, and
its backward is the same thing three times:

    dq = LA(do, v, k),   dk = LAʳ(v, do, q),   dv = LAʳ(k, q, do)

LAʳ walks from the last token to the first. What enters dq is the initial state, what enters dk and dv the
gradient of the final state, and what leaves dv is the gradient of the initial state.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


class Core(Protocol):
    """Writes LA(q, k, v), or LAʳ where `reverse`, into `out`, and the state that leaves into `final`.

    Forward: X_t = λ·X_{t−1} + k_tᵀ v_t, out_t = scale·q_t·X_t, final = X_{n−1}, X_{−1} = initial.
    Reverse: Z_t = scale·k_tᵀ v_t + λ·Z_{t+1}, out_t = q_t·Z_t, final = λ·Z_0, where Z_{n−1} is
    scale·k_{n−1}ᵀ v_{n−1} + initial: what enters has the weight λ^(n−1−t) at token t.

    q, k, v are [b, h', n, ·] of any strides; each h' divides the heads h of out, and head i of out reads head
    i // (h // h'). slopes is [h] or [h, 1, 1], fp32 and contiguous for kernels; None is no decay. out is
    [b, h, n, value_dim] of contiguous last dim. initial and final are [b or num_seqs, h, head_dim, value_dim]
    of any strides and floating dtype; None is zeros, or not wanted. offsets is int32 [num_seqs + 1], where
    sequences are packed along n.
    """

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        slopes: Tensor | None,
        out: Tensor,
        *,
        reverse: bool,
        scale: float,
        initial: Tensor | None,
        final: Tensor | None,
        offsets: Tensor | None,
    ) -> None:
        """Write `out` and `final`."""


Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]
"""dq, dk, dv and that of the initial state, None where it is not asked for."""


def empty_like(tensor: Tensor) -> Tensor:
    """Allocate what `tensor` is, laid out alike unless its last dim would not be contiguous."""
    out = torch.empty_like(tensor)
    if out.stride(-1) != 1:
        out = torch.empty_like(tensor, memory_format=torch.contiguous_format)
    return out


def empty_output(q: Tensor, v: Tensor) -> Tensor:
    """Allocate o [b, heads of q, n, value_dim], laid out as v is."""
    b, kv_heads, n, e = v.shape
    heads = q.shape[1]
    if heads == kv_heads:
        return empty_like(v)
    if v.stride(1) < v.stride(2):
        return v.new_empty(b, n, heads, e).transpose(1, 2)
    return v.new_empty(b, heads, n, e)


def empty_state(q: Tensor, v: Tensor, offsets: Tensor | None) -> Tensor:
    """Allocate a state [b or num_seqs, heads of q, head_dim, value_dim] in fp32, or fp64 for fp64 inputs."""
    count = q.shape[0] if offsets is None else offsets.shape[0] - 1
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    return torch.empty((count, q.shape[1], q.shape[3], v.shape[3]), dtype=dtype, device=q.device)


def unit_last_stride(tensor: Tensor) -> Tensor:
    """Return the tensor itself if its last dim is contiguous, which the kernels need, else a copy."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def gradients(
    core: Core,
    grad_o: Tensor | None,
    grad_state: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    slopes: Tensor | None,
    initial_state: Tensor | None,
    offsets: Tensor | None,
    scale: float,
    needs: Sequence[bool],
) -> Gradients:
    """Compute those gradients of (q, k, v, initial_state) that `needs` names, laid out as their inputs."""
    b, heads, n, _ = q.shape
    # Without a grad_o the loss depends on the state alone.
    do = v.new_zeros(b, heads, n, v.shape[3]) if grad_o is None else unit_last_stride(grad_o)
    dq = dk = dv = d_initial = None
    if needs[0]:
        dq = empty_like(q)
        entering = None if initial_state is None else initial_state.mT
        core(do, v, k, slopes, dq, reverse=False, scale=scale, initial=entering, final=None, offsets=offsets)
    if needs[1]:
        dk = out = empty_like(k)
        if k.shape[1] != heads:
            out = k.new_empty(q.shape)
        entering = None if grad_state is None else grad_state.mT
        core(v, do, q, slopes, out, reverse=True, scale=scale, initial=entering, final=None, offsets=offsets)
        sum_groups(out, dk)
    if needs[2] or needs[3]:
        dv = out = empty_like(v)
        if v.shape[1] != heads:
            out = torch.empty_like(do)
        if needs[3] and initial_state is not None:
            d_initial = torch.empty_like(initial_state, memory_format=torch.contiguous_format)
        core(
            k, q, do, slopes, out, reverse=True, scale=scale, initial=grad_state, final=d_initial,
            offsets=offsets,
        )  # fmt: skip
        if needs[2]:
            sum_groups(out, dv)
        else:
            dv = None
    return dq, dk, dv, d_initial


def sum_groups(part: Tensor, total: Tensor) -> None:
    """Sum `part` [b, heads of q, n, ·] into `total` [b, heads of k, n, ·], which may be `part` itself."""
    if part is not total:
        torch.sum(part.unflatten(1, (total.shape[1], -1)), dim=2, out=total)
