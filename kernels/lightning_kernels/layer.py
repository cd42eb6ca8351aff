"""The attention layer of TransNormerLLM: the layer around `lightning_attn2` in its model."""

from collections.abc import Callable
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from .lightning2.api import lightning_attn2
from .lightning2.blocked import lightning_attn2_torch
from .lightning2.context import ContextParallel
from .norm.rms_norm import simple_rms_norm, simple_rms_norm_torch
from .slopes import layer_slopes

Form = Literal["triton", "torch"]
_FORMS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "triton": (lightning_attn2, simple_rms_norm),
    "torch": (lightning_attn2_torch, simple_rms_norm_torch),
}


class TransNormerAttention(nn.Module):
    """Gated linear attention as TransNormerLLM has it: O = (SRMSNorm(LA(φ(XWq), φ(XWk), XWv)) ⊙ XWu) Wo.

    φ is SiLU, LA is Lightning Attention-2 with the slopes of this layer of the model, and the norm goes over
    all heads together. LRPE, which the published models have only in their first layer, is left out.

    `slopes` [heads, 1, 1] is a plain attribute, neither a parameter nor a buffer: it is fp32 whatever the
    dtype of the weights, has its values even where the weights are on the meta device, and goes where x is.

    Args:
        dim: width of the model, a multiple of `heads`.
        heads: the number of heads; dim / heads is the width of each, from 1 to 256.
        layer: index of the layer, from 0; it decides the slopes (`layer_slopes`).
        layers: the number of layers of the model.
        eps: of the norm.
        form: "triton" for the kernels, on a GPU; "torch" for PyTorch operations, on any device.
        device: of the weights.
        dtype: of the weights.

    Raises:
        ValueError: if dim is not a multiple of heads, a head is wider than 256, layer is not from 0 to
            layers − 1, or form is unknown.

    Source: TransNormerLLM, arXiv 2307.14995, and the published model's code.
    """

    slopes: Tensor

    def __init__(
        self,
        dim: int,
        heads: int,
        layer: int = 0,
        layers: int = 1,
        *,
        eps: float = 1e-6,
        form: Form = "triton",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if heads < 1 or dim < 1 or dim % heads:
            raise ValueError(f"dim must be a multiple of heads, got {dim} and {heads}")
        if dim // heads > 256:
            raise ValueError(f"a head may have up to 256 of dim, got {dim} / {heads} = {dim // heads}")
        if form not in _FORMS:
            raise ValueError(f'form must be "triton" or "torch", got {form!r}')
        self.heads, self.eps, self.form = heads, eps, form
        self.qkvu_proj = nn.Linear(dim, 4 * dim, bias=False, device=device, dtype=dtype)
        self.out_proj = nn.Linear(dim, dim, bias=False, device=device, dtype=dtype)
        self.slopes = layer_slopes(heads, layer, layers)
        self._move_slopes(self.out_proj.weight)

    def forward(self, x: Tensor, cp: ContextParallel | None = None) -> Tensor:
        """Map x [batch, seq_len, dim] to [batch, seq_len, dim], in the dtype of the weights.

        With `cp`, x is this rank's part of the tokens.

        Raises:
            ValueError: if x is not of that shape, not on a GPU for the form "triton", or not what `cp` says.
        """
        if x.dim() != 3 or x.shape[2] != self.out_proj.in_features:
            raise ValueError(f"x must be [batch, seq_len, {self.out_proj.in_features}], got {tuple(x.shape)}")
        attend, norm = _FORMS[self.form]
        q, k, v, u = self.qkvu_proj(x).chunk(4, dim=-1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in (silu(q), silu(k), v))
        # [batch, seq_len, heads, dim / heads]
        o = attend(q, k, v, self._move_slopes(x), layout="bnhd", cp=cp)
        out: Tensor = self.out_proj(norm(o.flatten(2), self.eps) * u)
        return out

    def _move_slopes(self, where: Tensor) -> Tensor:
        """Return the slopes on the device of `where`, and keep them there if they have values there."""
        slopes = self.slopes.to(where.device)
        if type(slopes) is type(self.slopes) and not slopes.is_meta:  # a fake tensor is of another type
            self.slopes = slopes
        return slopes

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Do to the weights what `to`, `half` or `to_empty` does; the slopes only change the device."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._move_slopes(self.out_proj.weight)
        return self

    def extra_repr(self) -> str:
        """Return the settings that `print` cannot read off the weights."""
        return f"heads={self.heads}, form={self.form}"
