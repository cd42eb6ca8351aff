"""The bundled Lightning Attention-2 in plain PyTorch: the same blocks, no Triton, any device."""

from __future__ import annotations

from lightning_bench.providers.bundled import BundledProvider, NoDecay


class Lightning2Torch(BundledProvider):
    """``lightning_kernels.lightning_attn2_torch``: blocks of tokens by torch operations."""

    name = "lightning2-torch"
    label = "Lightning Attention-2 (PyTorch)"
    summary = "bundled block algorithm in torch operations; runs on the CPU too"
    function = "lightning_attn2_torch"
    devices = ("cuda", "cpu")


class Lightning2TorchNoDecay(NoDecay, Lightning2Torch):
    """The same with s = None: no decay."""

    name = "lightning2-no-decay-torch"
    label = "Lightning Attention-2 without decay (PyTorch)"
    summary = "bundled block algorithm in torch operations, no decay; runs on the CPU too"
