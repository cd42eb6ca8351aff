"""Based in plain PyTorch: all pairs of tokens at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_bench.providers.forms.torch_form import TorchForm, scale_of

if TYPE_CHECKING:
    from torch import Tensor


class BasedTorch(TorchForm):
    """The parallel form of Based."""

    name = "based-torch"
    label = "Based (PyTorch, parallel)"
    family = "based"
    summary = "plain PyTorch, all pairs of tokens"

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return o with the scores 1 + x + x²/2, normalised by their sum."""
        x = scale_of(q) * (q @ k.mT)
        scores = (1.0 + x + 0.5 * x.square()).tril()
        return scores @ v / scores.sum(-1, keepdim=True)
