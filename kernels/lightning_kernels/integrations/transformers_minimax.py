"""MiniMax-01 of Hugging Face Transformers on these kernels. Needs transformers 5.24 or newer."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.minimax.modeling_minimax import (
    MiniMaxLightningAttention,
    apply_mask_to_padding_states,
)

from ..lightning2.api import lightning_attn2
from ..lightning2.blocked import lightning_attn2_torch
from ..step.decode_step import lightning_attn2_step, lightning_attn2_step_torch


class MiniMaxOnLightningKernels(MiniMaxLightningAttention):  # type: ignore[misc]
    """The layer `MiniMaxLightningAttention` with the same weights, its loop over blocks and tokens replaced.

    On a GPU it runs the Triton kernels, elsewhere their PyTorch forms. Slopes and states are fp32 whatever
    the dtype of the model; the original has them in that dtype. A state in a cache is [batch, heads,
    head_dim, head_dim], updated in place by a decoding step; several tokens at once also go on from it in
    one call.
    """

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: object = None,
        attention_mask: Tensor | None = None,
        cache: Any = None,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Map [batch, seq_len, hidden_size] to the same, as the original does.

        Returns:
            The output, and the state after the last token; None without a cache.
        """
        if cache is None:
            cache = options.get("past_key_values")
        qkv = apply_mask_to_padding_states(self.act_fn(self.qkv_proj(hidden_states)), attention_mask)
        heads, dim = self.num_attention_heads, self.head_dim
        q, k, v = qkv.unflatten(-1, (heads, 3 * dim)).split(dim, dim=-1)
        if cache is None:
            attend = lightning_attn2 if q.is_cuda else lightning_attn2_torch
            o, state = attend(q, k, v, self._slopes(q), layout="bnhd"), None
        else:
            o, state = self._go_on(q, k, v, cache.get_linear_cache(self.layer_idx))
            cache.set_linear_cache(self.layer_idx, state)
        o = self.norm(o.flatten(2)) * torch.sigmoid(self.output_gate(hidden_states))
        return self.out_proj(o), state

    def _go_on(self, q: Tensor, k: Tensor, v: Tensor, state: object) -> tuple[Tensor, Tensor]:
        """Return o [batch, seq_len, heads, dim] and the state, from that of the cache, if it has one."""
        slopes = self._slopes(q)
        before = state if isinstance(state, Tensor) else None
        if before is not None and q.shape[1] == 1 and not torch.is_grad_enabled():
            step = lightning_attn2_step if q.is_cuda else lightning_attn2_step_torch
            return step(q[:, 0], k[:, 0], v[:, 0], slopes, state=before)[:, None], before
        attend = lightning_attn2 if q.is_cuda else lightning_attn2_torch
        return attend(q, k, v, slopes, initial_state=before, return_state=True, layout="bnhd")

    def _slopes(self, where: Tensor) -> Tensor:
        """Return the slopes of this layer, fp32 [heads], on the device of `where`."""
        slopes: Tensor = self.get_slope_rate(where.device).float().flatten()
        return slopes


def use_lightning_kernels(model: nn.Module) -> int:
    """Have these kernels compute the lightning attention of a MiniMax model; return how many layers it has.

    Weights, buffers and hooks stay where they are; a second call changes nothing. To undo it, set `__class__`
    of the layers back to `MiniMaxLightningAttention`.

    Raises:
        ValueError: if the model has no such layer.
    """
    kinds_of_layers = (MiniMaxLightningAttention, MiniMaxOnLightningKernels)
    layers = [layer for layer in model.modules() if type(layer) in kinds_of_layers]
    if not layers:
        kinds = f"{type(model).__module__}.{type(model).__qualname__}"
        raise ValueError(f"{kinds} has no MiniMaxLightningAttention layer; load a model of type minimax")
    for layer in layers:
        layer.__class__ = MiniMaxOnLightningKernels
    return len(layers)
