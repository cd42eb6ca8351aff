"""Recurrences over a state in fp64, in blocks of tokens so that long sequences fit, differentiable.

They are written from the definitions and independently of every provider. A block starts from the state S of
the previous block. Inside it, G is the cumulative sum of the log decays, and a product of decays from token j
to token i is exp(G_i − G_j), split into one factor for each token. These factors stay within fp64 while |G|
is below 700 in a block, so blocks are short unless there is no decay.
"""

from __future__ import annotations

import torch
from torch import Tensor

_SHORT, _LONG = 32, 256


def gated(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None = None, *, bonus: Tensor | None = None
) -> Tensor:
    """Return o [P, n, e]: o_t = q_t S_t with S_t = diag(exp(g_t)) S_{t−1} + k_tᵀ v_t.

    q, k [P, n, d]; v [P, n, e]; `log_decay` g [P, n, d] or [P, n, 1], or None for no decay. With `bonus`
    u [P, d] the state is read before it decays, as in RWKV-6: o_t = q_t (S_{t−1} + diag(u) k_tᵀ v_t).
    """
    block = _LONG if log_decay is None else _SHORT
    n = q.shape[1]
    decay = torch.zeros_like(q[..., :1]) if log_decay is None else log_decay
    q, k, v, g = (_blocks(x, block) for x in (q, k, v, decay))
    total = g.cumsum(2)
    last = total[:, :, -1:]
    read = total if bonus is None else total - g  # the previous token's state has not decayed yet
    reach = q * read.exp()
    scores = reach @ (k * (-total).exp()).mT
    if bonus is None:
        scores = scores.tril()
    else:
        own = (q * bonus[:, None, None] * k).sum(-1)
        scores = scores.tril(-1) + torch.diag_embed(own)
    added = (k * (last - total).exp()).mT @ v
    kept = last.exp().mT
    states = []
    state = torch.zeros_like(added[:, 0])
    for index in range(q.shape[1]):
        states.append(state)
        state = kept[:, index] * state + added[:, index]
    o = scores @ v + reach @ torch.stack(states, 1)
    return o.flatten(1, 2)[:, :n]


def delta(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor) -> Tensor:
    """Return o [P, n, e]: o_t = q_t S_t with S_t = (I − β_t k_tᵀ k_t) diag(exp(g_t)) S_{t−1} + β_t k_tᵀ v_t.

    q, k [P, n, d]; v [P, n, e]; `log_decay` g [P, n, d] or [P, n, 1]; beta [P, n]. Token t adds k_tᵀ r_t with
    r_t = β_t (v_t − k_t diag(exp(g_t)) S_{t−1}). Inside a block the r solve a triangular system, since each
    depends on the previous ones.
    """
    n = q.shape[1]
    q, k, v, g, b = (_blocks(x, _SHORT) for x in (q, k, v, log_decay, beta[..., None]))
    total = g.cumsum(2)
    last = total[:, :, -1:]
    reach, from_state = q * total.exp(), k * total.exp()
    source = (k * (-total).exp()).mT
    system = torch.eye(_SHORT, dtype=q.dtype, device=q.device) + (b * (from_state @ source)).tril(-1)
    wanted = torch.linalg.solve_triangular(system, b * torch.cat([v, from_state], -1), upper=False)
    values, corrections = wanted.split([v.shape[-1], k.shape[-1]], -1)
    scores = (reach @ source).tril()
    out = (k * (last - total).exp()).mT
    kept = last.exp().mT
    states, added = [], []
    state = torch.zeros_like(out[:, 0] @ v[:, 0])
    for index in range(q.shape[1]):
        states.append(state)
        residual = values[:, index] - corrections[:, index] @ state
        added.append(residual)
        state = kept[:, index] * state + out[:, index] @ residual
    o = scores @ torch.stack(added, 1) + reach @ torch.stack(states, 1)
    return o.flatten(1, 2)[:, :n]


def elementwise(pushed: Tensor, log_gate: Tensor) -> Tensor:
    """Return h [P, n, d]: h_t = exp(log_gate_t) ⊙ h_{t−1} + pushed_t.

    `pushed` is real, [P, n, d]; `log_gate` is real or complex, [P, n, d], and h has its dtype.
    """
    n = pushed.shape[1]
    x, g = _blocks(pushed, _SHORT), _blocks(log_gate, _SHORT)
    reach = g.cumsum(2).exp()  # the share of the state at a block's start that is left at a token
    inside = reach * (x / reach).cumsum(2)
    entering = []
    state = torch.zeros_like(inside[:, 0, 0])
    for index in range(x.shape[1]):
        entering.append(state)
        state = reach[:, index, -1] * state + inside[:, index, -1]
    states = inside + reach * torch.stack(entering, 1)[:, :, None]
    return states.flatten(1, 2)[:, :n]


def _blocks(x: Tensor, block: int) -> Tensor:
    """Return [P, n, c] as [P, blocks, block, c]; zeros after the end add nothing and decay nothing."""
    padded = torch.nn.functional.pad(x, (0, 0, 0, -x.shape[1] % block))
    blocks: Tensor = padded.unflatten(1, (-1, block))
    return blocks
