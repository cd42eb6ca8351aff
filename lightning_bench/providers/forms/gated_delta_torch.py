"""Gated DeltaNet in plain PyTorch, token by token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_bench.providers.forms.token_by_token import delta_rule
from lightning_bench.providers.forms.torch_form import TorchForm

if TYPE_CHECKING:
    from torch import Tensor


class GatedDeltaTorch(TorchForm):
    """The recurrence of Gated DeltaNet."""

    name = "gated-delta-torch"
    label = "Gated DeltaNet (PyTorch, recurrent)"
    family = "gated_delta"
    summary = "plain PyTorch, token by token"
    names = ("q", "k", "v", "g", "beta")

    def attend(self, q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> Tensor:
        """Return o: the state decays, forgets what it recalls for the key, adds the value and is read."""
        return delta_rule(q, k, v, g[..., None], beta)
