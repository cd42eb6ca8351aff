"""Mamba-2 SSD in plain PyTorch, token by token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_bench.providers.forms.token_by_token import recurrent
from lightning_bench.providers.forms.torch_form import TorchForm

if TYPE_CHECKING:
    from torch import Tensor


class Mamba2Torch(TorchForm):
    """The recurrence of SSD."""

    name = "mamba2-torch"
    label = "Mamba-2 SSD (PyTorch, recurrent)"
    family = "mamba2"
    summary = "plain PyTorch, token by token"
    names = ("q", "k", "v", "g")

    def attend(self, q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
        """Return o as of GLA, unscaled, with one decay for all channels."""
        return recurrent(q, k, v, g[..., None])
