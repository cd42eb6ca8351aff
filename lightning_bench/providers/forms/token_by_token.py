"""The two recurrences that several forms share, token by token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_bench.providers.forms.torch_form import scale_of

if TYPE_CHECKING:
    from torch import Tensor


def recurrent(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    """Return o [b, h, n, e]: o_t = q_t S_t with S_t = diag(exp(g_t)) S_{t−1} + k_tᵀ v_t.

    q, k [b, h, n, d]; v [b, h, n, e]; log decays g [b, h, n, d] or [b, h, n, 1].
    """
    import torch

    state = torch.zeros_like(k[:, :, 0, :, None] * v[:, :, 0, None])
    outputs = []
    for t in range(q.shape[2]):
        state = g[:, :, t, :, None].exp() * state + k[:, :, t, :, None] * v[:, :, t, None]
        outputs.append(torch.einsum("bhd,bhde->bhe", q[:, :, t], state))
    return torch.stack(outputs, 2)


def delta_rule(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> Tensor:
    """Return o [b, h, n, e] of the gated delta rule, with scale 1/√head_dim.

    q, k [b, h, n, d]; v [b, h, n, e]; log decays g [b, h, n, d] or [b, h, n, 1]; strengths beta [b, h, n].
    """
    import torch

    state = torch.zeros_like(k[:, :, 0, :, None] * v[:, :, 0, None])
    outputs = []
    for t in range(q.shape[2]):
        state = g[:, :, t, :, None].exp() * state
        recalled = torch.einsum("bhd,bhde->bhe", k[:, :, t], state)
        update = beta[:, :, t, None] * (v[:, :, t] - recalled)
        state = state + k[:, :, t, :, None] * update[:, :, None]
        outputs.append(torch.einsum("bhd,bhde->bhe", q[:, :, t], state))
    return scale_of(q) * torch.stack(outputs, 2)
