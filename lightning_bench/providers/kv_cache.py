"""Keys and values of softmax attention as a cache of fixed size, into which each step writes one token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightning_bench.providers.registry.decoding import CacheSpec, NextToken

_Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


class SdpaCache:
    """k and v [batch, heads, length, dim] for `scaled_dot_product_attention`; a mask tells what is filled.

    `attend` is causal attention over whole sequences, bhnd; `under` gives the context of a decoding step.
    """

    spans = True

    def __init__(self, attend: _Attend, under: Callable[[], Any], spec: CacheSpec) -> None:
        self._attend, self._under = attend, under
        sizes = (spec.head_dim, spec.value_dim)
        self.k, self.v = (
            torch.zeros(
                (spec.batch, spec.heads, spec.length, dim), dtype=spec.dtype, device=spec.slopes.device
            )
            for dim in sizes
        )

    @property
    def bytes(self) -> int:
        """Bytes of keys and values."""
        return _bytes(self.k, self.v)

    def prefill(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the output of whole sequences, and keep their keys and values."""
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        n = q.shape[2]
        self.k[:, :, :n], self.v[:, :, :n] = k, v
        return self._attend(q, k, v).transpose(1, 2)

    def step(self, q: Tensor, k: Tensor, v: Tensor, token: NextToken) -> Tensor:
        """Return the output of one token per sequence, of which k and v are kept."""
        for kept, new in ((self.k, k), (self.v, v)):
            kept.index_copy_(2, token.position, new[:, :, None])
        span = len(token.mask)
        with self._under():
            o = torch.nn.functional.scaled_dot_product_attention(
                q[:, :, None], self.k[:, :, :span], self.v[:, :, :span], attn_mask=token.mask[None]
            )
        return o[:, :, 0]


class FlashCache:
    """k and v [batch, length, heads, dim] for `flash_attn_with_kvcache`, which reads only what tokens fill.

    `attend` is causal attention over whole sequences, bnhd; `decode` is `flash_attn_with_kvcache`.
    """

    spans = False

    def __init__(self, attend: _Attend, decode: Callable[..., Tensor], spec: CacheSpec) -> None:
        self._attend, self._decode = attend, decode
        shape = (spec.batch, spec.length, spec.heads, spec.head_dim)
        self.k = torch.zeros(shape, dtype=spec.dtype, device=spec.slopes.device)
        self.v = torch.zeros_like(self.k)

    @property
    def bytes(self) -> int:
        """Bytes of keys and values."""
        return _bytes(self.k, self.v)

    def prefill(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the output of whole sequences, and keep their keys and values."""
        n = q.shape[1]
        self.k[:, :n], self.v[:, :n] = k, v
        return self._attend(q, k, v)

    def step(self, q: Tensor, k: Tensor, v: Tensor, token: NextToken) -> Tensor:
        """Return the output of one token per sequence, of which k and v are kept."""
        new = {"k": k[:, None], "v": v[:, None]}
        o = self._decode(q[:, None], self.k, self.v, **new, cache_seqlens=token.lengths, causal=True)
        return o[:, 0]


def _bytes(*tensors: Tensor) -> int:
    return sum(x.numel() * x.element_size() for x in tensors)
