"""Closed forms in fp64, output and gradients, of attention with fixed decay and of softmax attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_bench.families.definition import Problem

_BLOCK = {"cpu": 128, "cuda": 512}
"""Tokens of a block: on a GPU, launches one after the other cost more than what longer blocks compute."""
_LEAST_ROWS = 128
_SCORE_ELEMENTS = 2**26  # fp64 scores that the softmax oracle holds at once: 512 MiB


def linear_attention(problem: Problem, decay: Tensor, scale: float, *, gradients: bool) -> dict[str, Tensor]:
    """Return `o` = scale · linear attention with the slopes `decay` [P], and if asked for `dq`, `dk`, `dv`.

    All are [P, n, d] or [P, n, e] in fp64. The gradients are the same recurrence with other arguments
    (Lightning Attention-2, arXiv 2401.04658, Algorithm 2).
    """
    q, k, v, do = problem.q, problem.k, problem.v, problem.do
    tensors = {"o": scale * continued(q, k, v, decay)[0]}
    if gradients:
        tensors["dq"] = scale * continued(do, v, k, decay)[0]
        tensors["dk"] = scale * continued(v.flip(1), do.flip(1), q.flip(1), decay)[0].flip(1)
        tensors["dv"] = scale * continued(k.flip(1), q.flip(1), do.flip(1), decay)[0].flip(1)
    return tensors


def softmax_attention(
    problem: Problem, *, causal: bool, gradients: bool, output_dtype: torch.dtype
) -> dict[str, Tensor]:
    """Return `o` = softmax(q kᵀ / √d) v, causal or not, and if asked for `dq`, `dk`, `dv`.

    All are [P, n, d] or [P, n, e] in fp64, computed a block of queries at a time. `o` is rounded to
    `output_dtype`, and the gradients start from the rounded output, as those of a kernel do.
    """
    q, k, v, do = problem.q, problem.k, problem.v, problem.do
    pairs, n, d = q.shape
    scale = 1.0 / math.sqrt(d)
    # In several blocks, since a causal one has no scores for the keys behind it.
    rows = max(1, min(n, max(_LEAST_ROWS, n // 8), _SCORE_ELEMENTS // (pairs * n)))
    tensors = {"o": torch.empty_like(v)}
    if gradients:
        tensors |= {"dq": torch.empty_like(q), "dk": torch.zeros_like(k), "dv": torch.zeros_like(v)}
    for start in range(0, n, rows):
        end = min(n, start + rows)
        part, seen = slice(start, end), slice(0, end if causal else n)
        scores = (q[:, part] @ k[:, seen].mT) * scale
        if causal:
            above = torch.ones(end - start, end, dtype=torch.bool, device=q.device).triu(start + 1)
            scores = scores.masked_fill(above, -math.inf)
        p = scores.softmax(-1)
        o = (p @ v[:, seen]).to(output_dtype).double()
        tensors["o"][:, part] = o
        if gradients:
            dob = do[:, part]
            tensors["dv"][:, seen] += p.mT @ dob
            ds = p * (dob @ v[:, seen].mT - (dob * o).sum(-1, keepdim=True)) * scale
            tensors["dq"][:, part] = ds @ k[:, seen]
            tensors["dk"][:, seen] += ds.mT @ q[:, part]
    return tensors


def continued(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return o_t = q_t S_t and the last S_t = λ S_{t−1} + k_tᵀ v_t, λ = exp(−decay), block by block.

    `state` is S before the first token, [P, d, e]; None means zeros.
    """
    pairs, n, _ = q.shape
    block = _BLOCK[q.device.type]
    o = torch.empty(pairs, n, v.shape[2], dtype=q.dtype, device=q.device)
    if state is None:
        state = torch.zeros(pairs, q.shape[2], v.shape[2], dtype=q.dtype, device=q.device)
    steps = torch.arange(block, dtype=q.dtype, device=q.device)
    rate = decay.to(q.dtype)[:, None]
    distance = steps[:, None] - steps[None, :]
    mask = torch.where(distance >= 0, torch.exp(-rate[:, :, None] * distance.clamp(min=0)), 0.0)
    into = torch.exp(-rate * (steps + 1))[:, :, None]
    for start in range(0, n, block):
        size = min(block, n - start)
        part = slice(start, start + size)
        qb, kb, vb = q[:, part], k[:, part], v[:, part]
        scores = (qb @ kb.mT) * mask[:, :size, :size]
        o[:, part] = scores @ vb + into[:, :size] * (qb @ state)
        out = torch.exp(-rate * (size - 1 - steps[:size]))[:, :, None]
        state = torch.exp(-rate * size)[:, :, None] * state + (kb * out).mT @ vb
    return o, state
