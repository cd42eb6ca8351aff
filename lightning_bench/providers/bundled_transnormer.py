"""TransNormerLLM's attention layer on the bundled kernels, and the same module in plain PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from lightning_bench.case import Direction, Shape
from lightning_bench.families.transnormer import LAYER_HEAD_DIM
from lightning_bench.providers.bundled import BundledProvider, kernels_attribute
from lightning_bench.providers.registry.base import Inputs

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


class TransNormerLayer(BundledProvider):
    """`lightning_kernels.TransNormerAttention`, the first of many layers, with the weights of the case."""

    name = "transnormer-layer"
    label = "TransNormerLLM layer (ours)"
    family = "transnormer"
    layout = "bnhd"
    function = "TransNormerAttention"
    needs: ClassVar[tuple[str, ...]] = ("triton",)
    summary = "projections, SiLU, lightning_attn2, SimpleRMSNorm and gate; head_dim is the width"
    form: ClassVar[str] = "triton"

    def unsupported(self, shape: Shape, direction: Direction) -> str | None:
        """Return why the layer does not support this case, or None."""
        reason = super().unsupported(shape, direction)
        if reason:
            return reason
        if shape.heads != 1 or shape.value_dim != shape.head_dim:
            return f"{self.name} takes heads = 1 and the model's width as head_dim and value_dim"
        heads, rest = divmod(shape.head_dim, LAYER_HEAD_DIM)
        if rest or heads & (heads - 1):
            return (
                f"{self.name} takes a head_dim of {LAYER_HEAD_DIM} times a power of two, not {shape.head_dim}"
            )
        return None

    def build(self, inputs: Inputs) -> Callable[[], Tensor]:
        """Return a call that computes the output [b, n, 1, width]."""
        import torch

        batch, tokens, _, width = inputs.v.shape
        make = kernels_attribute(self.function)
        layer = make(
            width,
            width // LAYER_HEAD_DIM,
            0,
            24,
            form=self.form,
            device=inputs.v.device,
            dtype=inputs.v.dtype,
        )
        projections, out = inputs["projections"], inputs["out"]

        def forward() -> Tensor:
            weights = {
                "qkvu_proj.weight": projections.view(4 * width, width),
                "out_proj.weight": out.view(width, width),
            }
            o: Tensor = torch.func.functional_call(layer, weights, inputs.v.view(batch, tokens, width))
            return o.view(batch, tokens, 1, width)

        return forward


class TransNormerLayerTorch(TransNormerLayer):
    """The same module on the PyTorch forms of its kernels."""

    name = "transnormer-layer-torch"
    label = "TransNormerLLM layer (PyTorch)"
    needs = ()
    devices = ("cuda", "cpu")
    summary = "the same layer in torch operations; runs on the CPU too"
    form = "torch"
