"""LLaMA (arXiv 2302.13971) on any causal softmax attention: RoPE, SwiGLU, RMSNorm with weights, no bias."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

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

_BASE = 10000.0
Rotation = tuple[Tensor, Tensor]
"""cos and sin of the angles of RoPE, each [seq_len, 1, head_dim]."""


def rotation(seq_len: int, head_dim: int, dtype: torch.dtype) -> Rotation:
    """Return the rotation of all positions, at least in fp32, on the default device."""
    rates = _BASE ** (-2.0 / head_dim * positions(head_dim // 2, dtype))
    angles = (positions(seq_len, dtype)[:, None] * rates).repeat(1, 2)[:, None]
    return angles.cos(), angles.sin()


def rotated(x: Tensor, by: Rotation) -> Tensor:
    """Return x [tokens, heads, head_dim] with its two halves rotated against each other."""
    cos, sin = by
    x = x.unflatten(0, (-1, len(cos)))
    left, right = x.chunk(2, dim=-1)
    return (x * cos + torch.cat([-right, left], dim=-1) * sin).to(x.dtype).flatten(0, 1)


class LlamaBefore(nn.Module):
    """From x to q, k and v."""

    def __init__(self, size: ModelSize, dtype: torch.dtype, by: Rotation) -> None:
        super().__init__()
        self.heads = size.heads
        self.norm = nn.RMSNorm(size.dim, eps=EPS, dtype=dtype)
        self.qkv = nn.Linear(size.dim, 3 * size.dim, bias=False, dtype=dtype)
        self.by = by

    def forward(self, x: Tensor, at: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Map x [tokens, dim] at the positions `at` to q, k, v [tokens, heads, head_dim]."""
        cos, sin = self.by
        by = self.by if at is None else (cos[at], sin[at])
        qkv = products(self.norm(x), self.qkv, 3 * [x.shape[-1]])
        q, k, v = (heads_of(part, self.heads) for part in qkv)
        return rotated(q, by), rotated(k, by), v


class LlamaAfter(nn.Module):
    """From x and the attention's output to the next x."""

    def __init__(self, size: ModelSize, dtype: torch.dtype) -> None:
        super().__init__()
        self.out = nn.Linear(size.dim, size.dim, bias=False, dtype=dtype)
        self.norm = nn.RMSNorm(size.dim, eps=EPS, dtype=dtype)
        self.up = nn.Linear(size.dim, 2 * size.glu_width, bias=False, dtype=dtype)
        self.down = nn.Linear(size.glu_width, size.dim, bias=False, dtype=dtype)

    def forward(self, x: Tensor, o: Tensor) -> Tensor:
        """Map x and the output of the attention, both [tokens, dim], to the next x."""
        x = x + self.out(o)
        gate, value = products(self.norm(x), self.up, 2 * [self.down.in_features])
        next_x: Tensor = x + self.down(silu(gate) * value)
        return next_x


def llama(
    size: ModelSize, attends: Sequence[Attend], seq_len: int, dtype: torch.dtype, *, recompute: bool = False
) -> LanguageModel:
    """Return the model on the default device, for sequences of up to `seq_len`; one attention per layer."""
    by = rotation(seq_len, size.head_dim, dtype)
    blocks = [Block(LlamaBefore(size, dtype, by), attend, LlamaAfter(size, dtype)) for attend in attends]
    norm = nn.RMSNorm(size.dim, eps=EPS, dtype=dtype)
    return LanguageModel(size, blocks, norm, dtype, recompute=recompute)
