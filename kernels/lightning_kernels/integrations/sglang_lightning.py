"""SGLang's backend of lightning attention on these kernels. Written for SGLang 0.5.23."""

from typing import Any

import torch
from sglang.srt.layers.attention.linear.lightning_backend import LightningAttentionBackend
from torch import Tensor
from torch.nn.functional import pad

from ..serving.serve import lightning_attn2_serve
from ..step.decode_step import lightning_attn2_step

_METHOD = "_linear_attention_entry"
_seg_la = getattr(LightningAttentionBackend, _METHOD)


def _entry(
    self: Any,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kv_cache: Tensor,
    state_indices_tensor: Tensor,
    metadata: Any,
    layer: Any,
    **options: Any,
) -> Tensor:
    """Return o [tokens, heads, head_dim] of a batch, and update its states in the pool.

    A padded batch may have more slots than sequences, or more rows than slots: the rest are zeros. The layers
    of Ling give q, k and v in fp32, for which there are no tensor cores: prompts are computed in the dtype of
    the model.
    """
    if any(value is not None for value in options.values()):
        given: Tensor = _seg_la(self, q, k, v, kv_cache, state_indices_tensor, metadata, layer, **options)
        return given
    slopes, slots = self.tp_slope[layer.layer_id], state_indices_tensor.to(torch.int32)
    if metadata.num_prefills == 0:
        slots = slots[: len(q)]
        if len(slots) < len(q):  # a pad by nothing would be a copy
            slots = pad(slots, (0, len(q) - len(slots)), value=-1)
        return lightning_attn2_step(
            q.to(k.dtype),  # with a cache of keys in fp8 SGLang casts q to it
            k,
            v,
            slopes,
            state=kv_cache,
            state_indices=slots,
            scale=layer.scaling,
        )
    bounds = metadata.query_start_loc.to(torch.int32)
    sequences = len(bounds) - 1
    dtype = self._model_runner.dtype
    o = lightning_attn2_serve(
        q.to(dtype),
        k.to(dtype),
        v.to(dtype),
        slopes,
        state=kv_cache,
        cu_seqlens=bounds,
        state_indices=slots[:sequences],
        has_initial_state=metadata.has_initial_states[:sequences].to(torch.bool),
        scale=layer.scaling,
    )
    return o.to(k.dtype)


def use_lightning_kernels() -> None:
    """Have SGLang's `linear_backend` "seg_la" run these kernels, in this process.

    SGLang calls it in each of its processes if it is an entry point of the group `sglang.srt.plugins`.

    What they have no counterpart for goes on to seg_la: the verification of drafts, for which SGLang keeps a
    state per token, and batches that keep a state in between for the cache of prefixes.
    """
    setattr(LightningAttentionBackend, _METHOD, _entry)
