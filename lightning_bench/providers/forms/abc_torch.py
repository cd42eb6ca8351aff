"""ABC in plain PyTorch, token by token over the slots."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_bench.providers.forms.torch_form import TorchForm, scale_of

if TYPE_CHECKING:
    from torch import Tensor


class AbcTorch(TorchForm):
    """The recurrence of ABC over the keys and values of its slots."""

    name = "abc-torch"
    label = "ABC (PyTorch, recurrent)"
    family = "abc"
    summary = "plain PyTorch, token by token over the slots"
    names = ("q", "k", "v", "s")

    def attend(self, q: Tensor, k: Tensor, v: Tensor, s: Tensor) -> Tensor:
        """Return o: every slot holds averages of keys and values, and the query attends to the slots."""
        import torch

        weight = (s - s.detach().amax(2, keepdim=True)).exp()
        total = weight.cumsum(2)
        keys = torch.zeros_like(weight[:, :, 0, :, None] * k[:, :, 0, None])
        values = torch.zeros_like(weight[:, :, 0, :, None] * v[:, :, 0, None])
        outputs = []
        for t in range(q.shape[2]):
            w, z = weight[:, :, t, :, None], total[:, :, t, :, None]
            keys, values = keys + w * k[:, :, t, None], values + w * v[:, :, t, None]
            scores = torch.einsum("bhd,bhmd->bhm", scale_of(q) * q[:, :, t], keys / z)
            outputs.append(torch.einsum("bhm,bhme->bhe", scores.softmax(-1), values / z))
        return torch.stack(outputs, 2)
