"""RWKV-6 in plain PyTorch, token by token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_bench.providers.forms.torch_form import TorchForm, scale_of

if TYPE_CHECKING:
    from torch import Tensor


class Rwkv6Torch(TorchForm):
    """The recurrence of RWKV-6."""

    name = "rwkv6-torch"
    label = "RWKV-6 (PyTorch, recurrent)"
    family = "rwkv6"
    summary = "plain PyTorch, token by token"
    names = ("q", "k", "v", "w", "u")

    def attend(self, r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor) -> Tensor:
        """Return o: the state plus u times the token is read; then the state decays and adds the token."""
        import torch

        state = torch.zeros_like(k[:, :, 0, :, None] * v[:, :, 0, None])
        outputs = []
        for t in range(r.shape[2]):
            token = k[:, :, t, :, None] * v[:, :, t, None]
            outputs.append(torch.einsum("bhd,bhde->bhe", r[:, :, t], state + u[..., None] * token))
            state = w[:, :, t, :, None].exp() * state + token
        return scale_of(r) * torch.stack(outputs, 2)
