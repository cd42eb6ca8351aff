"""Decoding: what an attention keeps of sequences, so that one more token needs no second pass over them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class CacheSpec:
    """What a cache is for: sequences of at most `length` tokens. It lies on the device of `slopes`, [heads].

    `dtype` is that of q, k and v.
    """

    batch: int
    heads: int
    head_dim: int
    value_dim: int
    length: int
    dtype: torch.dtype
    slopes: Tensor


@dataclass(frozen=True)
class NextToken:
    """Where the next token of every sequence goes.

    `position` is its index, int64 [1], and `lengths` the same for each sequence, int32 [batch]. `mask`
    [span], in the dtype of q, is 0 at places of a cache that hold a token or get this one, and -inf at later
    ones, which hold none: made once, it serves every layer.
    """

    position: Tensor
    lengths: Tensor
    mask: Tensor


class AttentionCache(Protocol):
    """What one layer keeps of its sequences, and the attention that goes with it."""

    spans: bool
    """Whether a step reads as many places as `NextToken.mask` has, and so is launched anew as they grow."""

    @property
    def bytes(self) -> int:
        """Bytes that are kept, unused places included."""

    def prefill(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Begin anew with q, k [batch, n, heads, head_dim], v [..., value_dim]. Return o like v."""

    def step(self, q: Tensor, k: Tensor, v: Tensor, token: NextToken) -> Tensor:
        """Add a token: q, k [batch, heads, head_dim], v [..., value_dim]. Return o like v."""
