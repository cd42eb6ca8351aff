"""fp64 oracles, one a family: output and gradients for sampled (batch, head) pairs.

Each oracle is written from the definition, in blocks so that long sequences fit, and independently of
every provider, the bundled kernels included. Tensors here are [pairs, seq_len, dim].
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_bench.case import Family

_BLOCK = 256
_SCORE_ELEMENTS = 2**26  # fp64 scores held at once by the softmax oracle: 512 MiB


@dataclass(frozen=True)
class Problem:
    """Inputs of an oracle in fp64: q, k [P, n, d]; v, do [P, n, e]; decay [P], the slopes s."""

    q: Tensor
    k: Tensor
    v: Tensor
    do: Tensor
    decay: Tensor


def solve(
    family: Family, problem: Problem, *, gradients: bool, output_dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    """The output ``o`` and, where asked for, ``dq``, ``dk`` and ``dv``, in fp64.

    ``linear_decay`` and ``linear`` are unscaled; ``softmax`` is causal with scale 1/√head_dim. With an
    ``output_dtype`` every result is rounded to it, and so is the o that the softmax gradients start from.
    """
    tensors = _exact(family, problem, gradients=gradients, output_dtype=output_dtype)
    return {name: x.to(output_dtype).double() for name, x in tensors.items()}


def _exact(
    family: Family, problem: Problem, *, gradients: bool, output_dtype: torch.dtype
) -> dict[str, Tensor]:
    if family == "softmax":
        return _softmax(problem, gradients=gradients, output_dtype=output_dtype)
    decay = problem.decay if family == "linear_decay" else torch.zeros_like(problem.decay)
    q, k, v, do = problem.q, problem.k, problem.v, problem.do
    tensors = {"o": _linear(q, k, v, decay)}
    if gradients:
        tensors["dq"] = _linear(do, v, k, decay)
        tensors["dk"] = _linear(v.flip(1), do.flip(1), q.flip(1), decay).flip(1)
        tensors["dv"] = _linear(k.flip(1), q.flip(1), do.flip(1), decay).flip(1)
    return tensors


def _linear(q: Tensor, k: Tensor, v: Tensor, decay: Tensor) -> Tensor:
    """o_t = q_t · Σ_{i ≤ t} λ^(t−i) k_iᵀ v_i with λ = exp(−decay), block by block.

    The gradients are the same recurrence with other arguments (design of the backward pass in
    Lightning Attention-2, arXiv 2401.04658, Algorithm 2).
    """
    pairs, n, _ = q.shape
    o = torch.empty(pairs, n, v.shape[2], dtype=q.dtype, device=q.device)
    state = torch.zeros(pairs, q.shape[2], v.shape[2], dtype=q.dtype, device=q.device)
    steps = torch.arange(_BLOCK, dtype=q.dtype, device=q.device)
    rate = decay.to(q.dtype)[:, None]
    distance = steps[:, None] - steps[None, :]
    mask = torch.where(distance >= 0, torch.exp(-rate[:, :, None] * distance.clamp(min=0)), 0.0)
    into = torch.exp(-rate * (steps + 1))[:, :, None]
    for start in range(0, n, _BLOCK):
        size = min(_BLOCK, n - start)
        part = slice(start, start + size)
        qb, kb, vb = q[:, part], k[:, part], v[:, part]
        scores = (qb @ kb.mT) * mask[:, :size, :size]
        o[:, part] = scores @ vb + into[:, :size] * (qb @ state)
        out = torch.exp(-rate * (size - 1 - steps[:size]))[:, :, None]
        state = torch.exp(-rate * size)[:, :, None] * state + (kb * out).mT @ vb
    return o


def _softmax(problem: Problem, *, gradients: bool, output_dtype: torch.dtype) -> dict[str, Tensor]:
    """softmax(q kᵀ / √d + causal mask) v, and its gradients, a block of queries at a time."""
    q, k, v, do = problem.q, problem.k, problem.v, problem.do
    pairs, n, d = q.shape
    scale = 1.0 / math.sqrt(d)
    rows = max(1, min(n, _SCORE_ELEMENTS // (pairs * n)))
    tensors = {"o": torch.empty_like(v)}
    if gradients:
        tensors |= {"dq": torch.empty_like(q), "dk": torch.zeros_like(k), "dv": torch.zeros_like(v)}
    for start in range(0, n, rows):
        end = min(n, start + rows)
        part, seen = slice(start, end), slice(0, end)
        scores = (q[:, part] @ k[:, seen].mT) * scale
        above = torch.ones(end - start, end, dtype=torch.bool, device=q.device).triu(start + 1)
        p = scores.masked_fill(above, -math.inf).softmax(-1)
        o = (p @ v[:, seen]).to(output_dtype).double()
        tensors["o"][:, part] = o
        if gradients:
            dob = do[:, part]
            tensors["dv"][:, seen] += p.mT @ dob
            ds = p * (dob @ v[:, seen].mT - (dob * o).sum(-1, keepdim=True)) * scale
            tensors["dq"][:, part] = ds @ k[:, seen]
            tensors["dk"][:, seen] += ds.mT @ q[:, part]
    return tensors
