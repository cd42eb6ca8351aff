"""Kimi Delta Attention in plain PyTorch, token by token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_bench.providers.forms.token_by_token import delta_rule
from lightning_bench.providers.forms.torch_form import TorchForm

if TYPE_CHECKING:
    from torch import Tensor


class KdaTorch(TorchForm):
    """The recurrence of Kimi Delta Attention."""

    name = "kda-torch"
    label = "KDA (PyTorch, recurrent)"
    family = "kda"
    summary = "plain PyTorch, token by token"
    names = ("q", "k", "v", "g", "beta")

    def attend(self, q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> Tensor:
        """Return o as of Gated DeltaNet, with a decay of each channel."""
        return delta_rule(q, k, v, g, beta)
