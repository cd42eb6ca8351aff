"""Attention plugged into a model: that of a provider, or the definition in fp64."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lightning_bench.models.language_model import Attend, LanguageModel
from lightning_bench.models.llama import llama
from lightning_bench.models.model_sizes import ModelSize
from lightning_bench.models.transnormer_llm import transnormer
from lightning_bench.providers.registry.base import Inputs, Provider

_SCORES = 2**26
"""Scores in fp64 that are held at once: half a gigabyte."""

AttentionOfLayer = Callable[[Tensor], Attend]
"""From the slopes of a layer [heads] to its attention; softmax attention ignores them."""


def build_model(
    size: ModelSize,
    attention: AttentionOfLayer,
    slopes: Sequence[Tensor],
    seq_len: int,
    dtype: torch.dtype,
    *,
    recompute: bool = False,
) -> LanguageModel:
    """Return a model on the default device; `slopes` has those of each layer, [heads]."""
    return model_on(size, [attention(of_layer) for of_layer in slopes], seq_len, dtype, recompute=recompute)


def model_on(
    size: ModelSize, attends: Sequence[Attend], seq_len: int, dtype: torch.dtype, *, recompute: bool = False
) -> LanguageModel:
    """Return a model on the default device with one attention per layer."""
    if size.architecture == "transnormer":
        return transnormer(size, attends, seq_len, dtype, recompute=recompute)
    return llama(size, attends, seq_len, dtype, recompute=recompute)


def attention_of(provider: Provider) -> AttentionOfLayer:
    """Return the attention of a provider that is loaded. It is called anew, as in training, each time.

    Projections make layout bnhd; a provider of layout bhnd gets views of it.
    """

    def of_layer(slopes: Tensor) -> Attend:
        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if provider.layout == "bnhd":
                return provider.build(Inputs(q, k, v, slopes))()
            q, k, v = (x.transpose(1, 2) for x in (q, k, v))
            return provider.build(Inputs(q, k, v, slopes))().transpose(1, 2)

        return attend

    return of_layer


def exact_linear(slopes: Tensor) -> Attend:
    """Return linear attention with a decay in fp64, every pair of tokens by itself; o in the dtype of v."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        def weighed(scores: Tensor, apart: Tensor) -> Tensor:
            decay = torch.exp(-slopes.double()[:, None, None] * apart.clamp(min=0))
            return scores * torch.where(apart < 0, 0.0, decay)

        return _by_rows(q, k, v, weighed)

    return attend


def exact_softmax(slopes: Tensor) -> Attend:
    """Return causal softmax attention with scale 1/√head_dim in fp64; o in the dtype of v."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        def weighed(scores: Tensor, apart: Tensor) -> Tensor:
            scaled = scores.mul(q.shape[-1] ** -0.5)
            return scaled.masked_fill(apart < 0, -torch.inf).softmax(-1)

        return _by_rows(q, k, v, weighed)

    return attend


def _by_rows(q: Tensor, k: Tensor, v: Tensor, weighed: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return attention in fp64, of some queries at a time; q, k and v are [batch, seq_len, heads, ·].

    `weighed` maps scores [batch, heads, queries, keys], and by how much each query comes later than each key,
    to weights.
    """
    batch, n, heads, _ = q.shape
    rows = max(1, _SCORES // (batch * heads * n))
    index = torch.arange(n, device=q.device, dtype=torch.float64)
    exact_k, exact_v, parts = k.double(), v.double(), []
    for begin in range(0, n, rows):
        end = min(n, begin + rows)  # no query sees a later key
        scores = torch.einsum("bihd,bjhd->bhij", q[:, begin:end].double(), exact_k[:, :end])
        weights = weighed(scores, index[begin:end, None] - index[:end])
        parts.append(torch.einsum("bhij,bjhe->bihe", weights, exact_v[:, :end]).to(v.dtype))
    return torch.cat(parts, dim=1)


def exact_attention(size: ModelSize) -> AttentionOfLayer:
    """Return the definition of the model's attention."""
    return exact_linear if size.family == "linear_decay" else exact_softmax
