"""Retention in plain PyTorch: all pairs of tokens at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_bench.providers.forms.torch_form import TorchForm, scale_of

if TYPE_CHECKING:
    from torch import Tensor


class RetentionTorch(TorchForm):
    """The parallel form of retention."""

    name = "retention-torch"
    label = "Retention (PyTorch, parallel)"
    family = "retention"
    summary = "plain PyTorch, all pairs of tokens"
    names = ("q", "k", "v", "decay")

    def attend(self, q: Tensor, k: Tensor, v: Tensor, decay: Tensor) -> Tensor:
        """Return (d^(−1/2) q kᵀ ∘ λ^(t−i)) v."""
        import torch

        steps = torch.arange(q.shape[2], device=q.device, dtype=q.dtype)
        log = -decay[:, None, None].to(q.dtype) * (steps[:, None] - steps)
        return (scale_of(q) * (q @ k.mT) * log.tril().exp().tril()) @ v
