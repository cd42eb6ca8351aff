"""The state of linear attention as a cache: its size does not depend on how many tokens came before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightning_bench.providers.registry.decoding import CacheSpec, NextToken


class StateCache:
    """One state per sequence and head, updated in place.

    `attend` is as `lightning_kernels.lightning_attn2`, `decode` as `lightning_kernels.lightning_attn2_step`.
    The state is fp32, fp64 for inputs in fp64.
    """

    spans = False

    def __init__(self, attend: Callable[..., Any], decode: Callable[..., Tensor], spec: CacheSpec) -> None:
        self._attend, self._decode, self._slopes = attend, decode, spec.slopes
        shape = (spec.batch, spec.heads, spec.head_dim, spec.value_dim)
        dtype = torch.promote_types(spec.dtype, torch.float32)
        self.state = torch.zeros(shape, dtype=dtype, device=spec.slopes.device)

    @property
    def bytes(self) -> int:
        """Bytes of the states."""
        return self.state.numel() * self.state.element_size()

    def prefill(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the output of whole sequences, and keep their final states."""
        o: Tensor
        o, state = self._attend(q, k, v, self._slopes, return_state=True, layout="bnhd")
        self.state.copy_(state)
        return o

    def step(self, q: Tensor, k: Tensor, v: Tensor, token: NextToken) -> Tensor:
        """Return the output of one token per sequence, which enters the states."""
        return self._decode(q, k, v, self._slopes, state=self.state)
