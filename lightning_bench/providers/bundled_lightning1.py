"""The bundled Lightning Attention-1 kernels in Triton: quadratic in the sequence, tiled, no state."""

from __future__ import annotations

from lightning_bench.providers.bundled import BundledProvider, NoDecay


class Lightning1(BundledProvider):
    """`lightning_kernels.lightning_attn1`: (QKᵀ ∘ M)V in tiles, as FlashAttention without the softmax."""

    name = "lightning1"
    label = "Lightning Attention-1 (ours)"
    summary = "bundled Triton kernels of the quadratic predecessor"
    function = "lightning_attn1"
    dims = (16, 256)
    needs = ("triton",)


class Lightning1NoDecay(NoDecay, Lightning1):
    """The same kernels with s = None: no decay."""

    name = "lightning1-no-decay"
    label = "Lightning Attention-1 without decay (ours)"
    summary = "bundled Triton kernels of the quadratic predecessor, no decay"
