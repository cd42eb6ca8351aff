"""The lightning attention layers of vLLM on these kernels. Written for vLLM 0.33."""

from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.custom_op import PluggableLayer, op_registry_oot
from vllm.model_executor.layers.mamba.linear.bailing_linear_attn import BailingMoELinearAttention
from vllm.model_executor.layers.mamba.linear.minimax_linear_attn import MiniMaxText01LinearAttention

from ..serving.serve import lightning_attn2_serve
from ..step.decode_step import lightning_attn2_step


class _OnLightningKernels:
    """What both layers get: a mixed batch in one launch, and decoding in one.

    Rounds of speculative decoding, for which vLLM keeps a state per token of a draft, stay with its kernels.
    """

    tp_slope: Tensor
    model_config: Any

    def _prefill_and_mix_infer(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        kv_cache: Tensor,
        state_indices_tensor: Tensor,
        attn_metadata: Any,
    ) -> Tensor:
        """Return o [tokens, heads · head_dim] of decoding tokens and prompts, and update their states."""
        if getattr(attn_metadata, "num_accepted_tokens", None) is not None:
            mixed: Tensor = super()._prefill_and_mix_infer(  # type: ignore[misc]
                q, k, v, kv_cache, state_indices_tensor, attn_metadata
            )
            return mixed
        # The layer computes q, k and v in fp32; the products of a prompt are in the dtype of the model.
        narrow_q, narrow_k, narrow_v = (x.to(self.model_config.dtype) for x in (q, k, v))
        sequences = attn_metadata.num_decodes + attn_metadata.num_prefills
        o = lightning_attn2_serve(
            narrow_q,
            narrow_k,
            narrow_v,
            self._slopes(q),
            state=kv_cache,
            cu_seqlens=attn_metadata.query_start_loc[: sequences + 1].to(torch.int32),
            state_indices=state_indices_tensor[:sequences].to(torch.int32),
        )
        return o.flatten(1).to(q.dtype)

    def _decode_infer(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        kv_cache: Tensor,
        state_indices_tensor: Tensor,
        attn_metadata: Any,
    ) -> Tensor:
        """Return o [sequences, heads · head_dim] of one token of each sequence, and update their states."""
        if getattr(attn_metadata, "num_accepted_tokens", None) is not None:
            drafts: Tensor = super()._decode_infer(  # type: ignore[misc]
                q, k, v, kv_cache, state_indices_tensor, attn_metadata
            )
            return drafts
        own = getattr(attn_metadata, "state_indices_tensor_d", None)
        count = attn_metadata.num_decodes
        slots = (state_indices_tensor if own is None else own)[:count].to(torch.int32)
        step = lightning_attn2_step(
            q[:count], k[:count], v[:count], self._slopes(q), state=kv_cache, state_indices=slots
        )
        return step.flatten(1)

    def _slopes(self, where: Tensor) -> Tensor:
        """Return the slopes of this rank's heads on the device of `where`, and keep them there."""
        if self.tp_slope.device != where.device:
            self.tp_slope = self.tp_slope.to(where.device)
        return self.tp_slope


class BailingOnLightningKernels(_OnLightningKernels, BailingMoELinearAttention):  # type: ignore[misc]
    """`BailingMoELinearAttention` of Ling and Ring."""


class MiniMaxText01OnLightningKernels(_OnLightningKernels, MiniMaxText01LinearAttention):  # type: ignore[misc]
    """`MiniMaxText01LinearAttention` of MiniMax-01 and M1."""


def register_layers() -> None:
    """Have vLLM make its lightning attention layers of these classes. Call it before a model is loaded.

    vLLM calls it in each of its processes if it is an entry point of the group `vllm.general_plugins`. A
    second call changes nothing.
    """
    for layer in (BailingOnLightningKernels, MiniMaxText01OnLightningKernels):
        name = layer.__bases__[-1].__name__
        if op_registry_oot.get(name) is not layer:
            PluggableLayer.register_oot(layer, name=name)
