"""Recurrences over a state in fp64, in blocks of tokens so that long sequences fit; autograd goes through.

Written from the definitions and independently of every provider. Inside a block, which starts from the state
S of the block before, G is the cumulative sum of the log decays, and a product of decays from token j to
token i is exp(G_i − G_j), split into a factor of each. In fp64 that holds while |G| stays below 700 in a
block, so blocks are short where decays are the channels' own.
"""

from __future__ import annotations

import torch
from torch import Tensor

_SHORT, _LONG = 32, 256


def gated(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None = None, *, bonus: Tensor | None = None
) -> Tensor:
    """o_t = q_t S_t with S_t = diag(exp(g_t)) S_{t−1} + k_tᵀ v_t.

    q, k [P, n, d]; v [P, n, e]; ``log_decay`` g [P, n, d] or [P, n, 1], or None for no decay. With ``bonus``
    u [P, d] the state is read before it decays: o_t = q_t (S_{t−1} + diag(u) k_tᵀ v_t), as RWKV-6 has it.
    """
    block = _LONG if log_decay is None else _SHORT
    n = q.shape[1]
    decay = torch.zeros_like(q[..., :1]) if log_decay is None else log_decay
    q, k, v, g = (_blocks(x, block) for x in (q, k, v, decay))
    total = g.cumsum(2)
    last = total[:, :, -1:]
    read = total if bonus is None else total - g  # the state of the token before has not met this one's decay
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
    """o_t = q_t S_t with S_t = (I − β_t k_tᵀ k_t) diag(exp(g_t)) S_{t−1} + β_t k_tᵀ v_t.

    q, k [P, n, d]; v [P, n, e]; ``log_decay`` g [P, n, d] or [P, n, 1]; beta [P, n]. What token t really adds
    is k_tᵀ r_t with r_t = β_t (v_t − k_t diag(exp(g_t)) S_{t−1}); inside a block the r solve a triangular
    system, since each depends on those before it.
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
        rest = values[:, index] - corrections[:, index] @ state
        added.append(rest)
        state = kept[:, index] * state + out[:, index] @ rest
    o = scores @ torch.stack(added, 1) + reach @ torch.stack(states, 1)
    return o.flatten(1, 2)[:, :n]


def _blocks(x: Tensor, block: int) -> Tensor:
    """[P, n, c] to [P, blocks, block, c], zeros behind the end: they add nothing and decay nothing."""
    padded = torch.nn.functional.pad(x, (0, 0, 0, -x.shape[1] % block))
    blocks: Tensor = padded.unflatten(1, (-1, block))
    return blocks
