"""Forward and backward of linear attention with decay from one function, a `Core`.

With X_t = λ·X_{t−1} + k_tᵀ v_t the forward is o = scale·q·X, and its backward is the same thing three times:

    dq = LA(do, v, k),   dk = LAʳ(v, do, q),   dv = LAʳ(k, q, do)

LAʳ walks from the last token to the first. What enters dq is the initial state, what enters dk and dv the
gradient of the final state, and what leaves dv is the gradient of the initial state.
"""

from typing import Protocol

import torch
from torch import Tensor

from .allocate import (
    empty_like,
    empty_output,
    empty_state,
    sum_groups,
    unit_last_stride,
)
from .call import Call, Gradients, Upstream


class Core(Protocol):
    """A function that computes LA(q, k, v) of a `Call`, or LAʳ where `reverse`.

    Forward: X_t = λ·X_{t−1} + k_tᵀ v_t, out_t = scale·q_t·X_t, final = X_{n−1}, X_{−1} = initial_state.
    Reverse: Z_t = scale·k_tᵀ v_t + λ·Z_{t+1}, out_t = q_t·Z_t, final = λ·Z_0, where Z_{n−1} is
    scale·k_{n−1}ᵀ v_{n−1} + initial_state: what enters has the weight λ^(n−1−t) at token t.
    """

    def __call__(self, call: Call, out: Tensor, final: Tensor | None, *, reverse: bool) -> None:
        """Write the output and the state that leaves.

        Args:
            call: q, k, v [b, h', n, ·] of any strides, where each h' divides the heads h of out: head i of
                out reads head i // (h // h'). For kernels it is `Call.for_kernels`. `return_state` means
                nothing here.
            out: [b, h, n, value_dim] of contiguous last dim.
            final: [b or num_seqs, h, head_dim, value_dim] of any strides and floating dtype, as the initial
                state; None where the state that leaves is not wanted.
            reverse: whether to walk from the last token to the first.
        """


def core_forward(core: Core, call: Call) -> tuple[Tensor, Tensor | None]:
    """Compute o and, where `call.return_state`, the final state, both allocated here."""
    out = empty_output(call)
    final = empty_state(call) if call.return_state else None
    core(call, out, final, reverse=False)
    return out, final


def core_backward(core: Core, upstream: Upstream, call: Call) -> Gradients:
    """Compute the gradients in `upstream.needs`, each laid out in memory as its input."""
    q, k, v, slopes, initial_state, bounds, scale, _ = call
    grad_o, grad_state, (need_q, need_k, need_v, need_initial) = upstream
    b, heads, n, _ = q.shape
    # Without a grad_o the loss depends on the state only.
    do = v.new_zeros(b, heads, n, v.shape[3]) if grad_o is None else unit_last_stride(grad_o)
    dq = dk = dv = d_initial = None
    if need_q:
        dq = empty_like(q)
        entering = None if initial_state is None else initial_state.mT
        core(Call(do, v, k, slopes, entering, bounds, scale), dq, None, reverse=False)
    if need_k:
        dk = out = empty_like(k)
        if k.shape[1] != heads:
            out = k.new_empty(q.shape)
        entering = None if grad_state is None else grad_state.mT
        core(Call(v, do, q, slopes, entering, bounds, scale), out, None, reverse=True)
        sum_groups(out, dk)
    if need_v or need_initial:
        dv = out = empty_like(v)
        if v.shape[1] != heads:
            out = torch.empty_like(do)
        if need_initial and initial_state is not None:
            d_initial = torch.empty_like(initial_state, memory_format=torch.contiguous_format)
        core(Call(k, q, do, slopes, grad_state, bounds, scale), out, d_initial, reverse=True)
        if need_v:
            sum_groups(out, dv)
        else:
            dv = None
    return Gradients(dq, dk, dv, d_initial)
