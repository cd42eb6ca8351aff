"""The bundled Lightning Attention-2 kernels in Triton."""

from __future__ import annotations

from lightning_bench.case import Direction, Shape
from lightning_bench.providers.bundled import BundledProvider, kernels_attribute
from lightning_bench.providers.dtypes import torch_dtype


class Lightning2(BundledProvider):
    """``lightning_kernels.lightning_attn2``: one pass over the sequence, state in registers."""

    name = "lightning2"
    label = "Lightning Attention-2 (ours)"
    summary = "bundled Triton kernels, one pass, bf16 into every dot and fp32 state"
    function = "lightning_attn2"
    dims = (16, 256)
    needs = ("triton",)

    def config(self, shape: Shape, direction: Direction) -> str:
        """The kernel and the tiles that are chosen for this case; for fwd_bwd, those of the backward pass."""
        describe = kernels_attribute("lightning2_config")
        chosen = describe(
            shape.head_dim,
            shape.value_dim,
            torch_dtype(shape.dtype),
            programs=shape.batch * shape.heads,
            seq_len=shape.seq_len,
            backward=direction != "fwd",
        )
        return str(chosen)
