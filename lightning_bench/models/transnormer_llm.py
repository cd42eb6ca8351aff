"""TransNormerLLM (arXiv 2307.14995) as its published code has it, on any attention with a decay per head.

Each layer is x + GLA(norm x), then x + SGLU(norm x). GLA: q and k through SiLU, attention without a scale,
the norm over all heads together, times u, the output projection. SGLU: w3(w1 x ⊙ w2 x), no activation. The
norm is SimpleRMSNorm, which has no weights; nothing has a bias. The first layer rotates q and k by LRPE.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm, silu

from lightning_bench.models.language_model import (
    EPS,
    Attend,
    Block,
    LanguageModel,
    heads_of,
    positions,
    products,
)
from lightning_bench.models.model_sizes import ModelSize


class SimpleRmsNorm(nn.Module):
    """x over its root mean square along the last dim."""

    def forward(self, x: Tensor) -> Tensor:
        """Map x to a tensor like it."""
        return rms_norm(x, x.shape[-1:], eps=EPS)


class Lrpe(nn.Module):
    """Linearized relative positional encoding: x becomes [x cos θt, x sin θt] with learned θ per head.

    θ has the same values at the start as the frequencies of RoPE, and stays fp32 in a 16-bit model: a
    rounded θ would be off by whole turns late in a sequence.
    """

    def __init__(self, heads: int, head_dim: int, seq_len: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.seq_len = seq_len
        rates = 10000.0 ** (-2.0 / (heads * head_dim) * positions(heads * head_dim, dtype))
        self.theta = nn.Parameter(rates.view(heads, head_dim))

    def forward(self, x: Tensor, at: Tensor | None = None) -> Tensor:
        """Map x [tokens, heads, d] at the positions `at` to [tokens, heads, 2 d]."""
        if at is None:
            at = torch.arange(self.seq_len, device=x.device)
        angles = at.to(self.theta.dtype)[:, None, None] * self.theta
        x = x.unflatten(0, (-1, len(at)))
        return torch.cat([x * angles.cos(), x * angles.sin()], dim=-1).to(x.dtype).flatten(0, 1)


class TransNormerBefore(nn.Module):
    """From x to q, k, v and the gate u."""

    def __init__(self, size: ModelSize, dtype: torch.dtype, lrpe: Lrpe | None) -> None:
        super().__init__()
        self.heads, self.norm = size.heads, SimpleRmsNorm()
        self.qkvu = nn.Linear(size.dim, 4 * size.dim, bias=False, dtype=dtype)
        self.lrpe = lrpe

    def forward(self, x: Tensor, at: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Map x [tokens, dim] at the positions `at` to q, k, v [tokens, heads, ·] and u like x."""
        qk, vu = products(self.norm(x), self.qkvu, 2 * [2 * x.shape[-1]])
        (q, k), (v, u) = qk.chunk(2, dim=-1), vu.chunk(2, dim=-1)
        q, k, v = (heads_of(part, self.heads) for part in (silu(q), silu(k), v))
        return (q, k, v, u) if self.lrpe is None else (self.lrpe(q, at), self.lrpe(k, at), v, u)


class TransNormerAfter(nn.Module):
    """From x, the attention's output and u to the next x."""

    def __init__(self, size: ModelSize, dtype: torch.dtype) -> None:
        super().__init__()
        self.norm = SimpleRmsNorm()
        self.out = nn.Linear(size.dim, size.dim, bias=False, dtype=dtype)
        self.up = nn.Linear(size.dim, 2 * size.glu_width, bias=False, dtype=dtype)
        self.down = nn.Linear(size.glu_width, size.dim, bias=False, dtype=dtype)

    def forward(self, x: Tensor, o: Tensor, u: Tensor) -> Tensor:
        """Map x, the output of the attention and u, each [tokens, dim], to the next x."""
        x = x + self.out(self.norm(o) * u)
        left, right = self.up(self.norm(x)).chunk(2, dim=-1)
        next_x: Tensor = x + self.down(left * right)
        return next_x


def transnormer(
    size: ModelSize, attends: Sequence[Attend], seq_len: int, dtype: torch.dtype, *, recompute: bool = False
) -> LanguageModel:
    """Return the model on the default device, for sequences of up to `seq_len`; one attention per layer."""
    lrpe = Lrpe(size.heads, size.head_dim, seq_len, dtype)
    blocks = [
        Block(TransNormerBefore(size, dtype, None if layer else lrpe), attend, TransNormerAfter(size, dtype))
        for layer, attend in enumerate(attends)
    ]
    return LanguageModel(size, blocks, SimpleRmsNorm(), dtype, recompute=recompute)
