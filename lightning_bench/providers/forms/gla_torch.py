"""GLA in plain PyTorch, token by token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_bench.providers.forms.token_by_token import recurrent
from lightning_bench.providers.forms.torch_form import TorchForm, scale_of

if TYPE_CHECKING:
    from torch import Tensor


class GlaTorch(TorchForm):
    """The recurrence of GLA."""

    name = "gla-torch"
    label = "GLA (PyTorch, recurrent)"
    family = "gla"
    summary = "plain PyTorch, token by token"
    names = ("q", "k", "v", "g")

    def attend(self, q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
        """Return o: at each token the state decays, the token is added, and the state is read."""
        return scale_of(q) * recurrent(q, k, v, g)
