"""Two fp64 oracles of causal linear attention with decay, for tests: quadratic and token by token.

    o_t = scale · q_t · X_t,   X_t = λ·X_{t−1} + k_tᵀ v_t,   λ = exp(−s),   X_{−1} = initial_state

Both are plain differentiable torch, so autograd gives the oracle of every gradient too. They are slow
and hold everything in memory.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from ..common.call import Call
from ..common.validate import check_call, check_values, heads_first
from .tiles import STEEPEST

_OneSequence = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def reference_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    s: Tensor | None = None,
    *,
    scale: float = 1.0,
    initial_state: Tensor | None = None,
    return_state: bool = False,
    cu_seqlens: Tensor | None = None,
    layout: str = "bhnd",
) -> Tensor | tuple[Tensor, Tensor]:
    """Evaluate the quadratic definition in fp64.

    o_i = scale · (Σ_{j≤i} exp(−s·(i−j)) (q_i·k_j) v_j + exp(−s·(i+1)) q_i · initial_state)

    Args:
        q: queries [b, hq, n, head_dim], any floating dtype and device.
        k: keys [b, hk, n, head_dim], hq a multiple of hk.
        v: values [b, hk, n, value_dim].
        s: slopes per token [hq, 1, 1] or [hq], s ≥ 0, also inf; None means no decay.
        scale: what o is multiplied by.
        initial_state: [b, hq, head_dim, value_dim], any floating dtype; None means zeros.
        return_state: whether to return the state after the last token too.
        cu_seqlens: int32 [num_seqs + 1]: bounds of sequences packed along n in a batch of 1; rows of o beyond
            the last are zeros. States are then [num_seqs, hq, head_dim, value_dim]. Reading them synchronises
            with a GPU.
        layout: "bhnd", or "bnhd" for q, k, v and o as [b, n, heads, dim].

    Returns:
        o [b, hq, n, value_dim] in fp64, with return_state (o, state); it takes O(b·hq·n²) memory.

    Raises:
        ValueError: if shapes, dtypes or devices do not fit together.
        NotImplementedError: if s requires a gradient.
    """
    q, k, v = heads_first(q, k, v, layout)
    o, state = _evaluate(_quadratic, Call(q, k, v, s, initial_state, cu_seqlens, scale), layout)
    return (o, state) if return_state else o


def reference_recurrent(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    s: Tensor | None = None,
    *,
    scale: float = 1.0,
    initial_state: Tensor | None = None,
    return_state: bool = False,
    cu_seqlens: Tensor | None = None,
    layout: str = "bhnd",
) -> Tensor | tuple[Tensor, Tensor]:
    """Walk the recurrence token by token in fp64.

    Arguments, result and errors are those of `reference_attention`; memory is O(b·hq·head_dim·value_dim)
    per token while gradients are recorded.
    """
    q, k, v = heads_first(q, k, v, layout)
    o, state = _evaluate(_recurrent, Call(q, k, v, s, initial_state, cu_seqlens, scale), layout)
    return (o, state) if return_state else o


def _evaluate(one_sequence: _OneSequence, call: Call, layout: str) -> tuple[Tensor, Tensor]:
    """Return o in `layout` and the final state, in fp64."""
    check_call(call)
    check_values(call)
    q, k, v, s, initial_state, cu_seqlens, scale, _ = call
    heads = q.shape[1]
    group = heads // k.shape[1]
    q = q.double() * scale
    k, v = (x.double().repeat_interleave(group, dim=1) for x in (k, v))
    rate = q.new_zeros(heads) if s is None else s.double().reshape(heads).clamp_max(STEEPEST)  # [h]
    count = q.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    state = q.new_zeros(count, heads, q.shape[3], v.shape[3])
    if initial_state is not None:
        state = initial_state.double()
    if cu_seqlens is None:
        o, state = one_sequence(q, k, v, rate, state)
    else:
        bounds: list[int] = cu_seqlens.tolist()
        parts = [
            one_sequence(q[:, :, i:j], k[:, :, i:j], v[:, :, i:j], rate, state[index : index + 1])
            for index, (i, j) in enumerate(pairwise(bounds))
        ]
        beyond = q.new_zeros(1, heads, q.shape[2] - bounds[-1], v.shape[3])
        o = torch.cat([*(part for part, _ in parts), beyond], dim=2)
        state = torch.cat([leaving for _, leaving in parts])
    return (o if layout == "bhnd" else o.transpose(1, 2)), state


def _quadratic(q: Tensor, k: Tensor, v: Tensor, rate: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Return o and the final state of sequences that begin with `state`."""
    n = q.shape[2]
    position = torch.arange(n, device=q.device, dtype=torch.float64)
    distance = position[:, None] - position[None, :]  # [n, n]
    rate = rate[:, None, None]  # [h, 1, 1]
    weight = (distance >= 0).double() * torch.exp(-rate * distance.clamp_min(0.0))
    o = (q @ k.mT * weight) @ v + torch.exp(-rate * (position + 1)[:, None]) * (q @ state)
    weighted_k = torch.exp(-rate * (n - 1 - position)[:, None]) * k
    return o, torch.exp(-rate * n) * state + weighted_k.mT @ v


def _recurrent(q: Tensor, k: Tensor, v: Tensor, rate: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Return o and the final state of sequences that begin with `state`."""
    decay = torch.exp(-rate)[:, None, None]
    rows = [v[:, :, :0]]
    for t in range(q.shape[2]):
        state = decay * state + k[:, :, t, :, None] * v[:, :, t, None, :]
        rows.append(q[:, :, t, None, :] @ state)
    return torch.cat(rows, dim=2), state
