"""The loop of Hugging Face Transformers' MiniMax layer, without the layer's projections and norm."""

from __future__ import annotations

import inspect
import math
from typing import TYPE_CHECKING, Any

from lightning_bench.case import DTYPES
from lightning_bench.providers.served import Batch, ServedProvider

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


class TransformersMinimax(ServedProvider):
    """`MiniMaxLightningAttention` with a cache: its projections, activation and norm replaced by identities.

    It computes in the dtype of the model, decays and states included. From a state that exists it goes on
    token by token, in Python.
    """

    name = "transformers-minimax"
    label = "Transformers MiniMax"
    package = "transformers"
    summary = "torch operations, a token at a time from a state, in the model's dtype"
    dtypes = DTYPES
    square = True

    def load(self) -> None:
        """Import the layer. Raise ImportError if this version has none, or one that ignores a `cache`."""
        from transformers.models.minimax.modeling_minimax import MiniMaxLightningAttention

        if "cache" not in inspect.signature(MiniMaxLightningAttention.forward).parameters:
            raise ImportError(
                f"the layer of transformers {self.version()} takes no argument cache: "
                'pip install "transformers>=5.24"'
            )

    def serve(self, batch: Batch) -> Callable[[], Tensor]:
        """Return the call; the layer's gate is 1."""
        import torch

        q, k, v = (batch.as_given(x) for x in (batch.q, batch.k, batch.v))
        layer, cache = _layer(batch)

        def attend(states: Tensor) -> tuple[Tensor, Tensor]:
            cache.set_linear_cache(0, states.to(v.dtype))
            packed = torch.cat([q, k, v], -1).flatten(2)
            o, _ = layer(packed, position_embeddings=None, attention_mask=None, cache=cache)
            return o, cache.get_linear_cache(0).float()

        return batch.carried(attend)


def _layer(batch: Batch) -> tuple[Any, Any]:
    """Return a layer with the slopes of the batch, and a cache."""
    import torch
    from transformers.models.minimax import modeling_minimax as minimax

    heads, dim = batch.q.shape[1:]
    config = minimax.MiniMaxConfig(
        hidden_size=8, num_attention_heads=heads, num_key_value_heads=heads, head_dim=dim,
        num_hidden_layers=1, layer_types=["linear_attention"],
    )  # fmt: skip
    layer = minimax.MiniMaxLightningAttention(config, 0)
    layer.act_fn = layer.qkv_proj = layer.norm = layer.out_proj = torch.nn.Identity()
    del layer.output_gate
    layer.output_gate = lambda hidden: hidden.new_full((*hidden.shape[:2], heads * dim), math.inf)
    layer.slope_rate = batch.slopes.cpu()[:, None, None]
    layer.query_decay, layer.key_decay, layer.diagonal_decay = layer.decay_factors(layer.slope_rate)
    return layer.to(batch.q.device, batch.q.dtype), minimax.MiniMaxCache()
