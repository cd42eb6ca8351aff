"""TransNormerLLM's attention layer, weights and their gradients included."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from lightning_bench.case import Shape
from lightning_bench.families.definition import LINEAR_BACKWARD, Definition, Problem
from lightning_bench.families.spec import QKV, Spec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from lightning_bench.families.draw import Draw

LAYER_HEAD_DIM = 64
"""Width of the layer's own heads."""


class TransNormer(Definition):
    """The first layer of a model whose width is the case's head_dim: a width of 1024 has 16 heads of 64.

    x is v [b, 1, n, D]. `projections` are Wq, Wk, Wv and Wu [1, 4, D, D], `out` is Wo [1, D, D]; each is
    [outputs, inputs] as in torch's Linear.
    """

    equation = "O = (SRMSNorm(LA(silu(XWq), silu(XWk), XWv)) ⊙ XWu) Wo,  X = v, LA with λ = exp(−2^(−8i/H))"
    paper = "2307.14995"
    sizes: ClassVar[Mapping[str, int]] = {"f": 4}
    odd_in_v: ClassVar[bool] = False
    inputs: ClassVar[Mapping[str, Spec]] = {
        "v": QKV["v"],
        "projections": Spec("hfed"),
        "out": Spec("hed"),
    }

    def make(self, draw: Draw) -> dict[str, Tensor]:
        """Return the weights, normal / √D, which keeps the variance."""
        width = float(draw.shape.head_dim)
        return {
            name: draw.normal(axes) * width**-0.5 for name, axes in (("projections", "hfed"), ("out", "hed"))
        }

    def output(self, problem: Problem) -> Tensor:
        """Return the layer's output, with its attention as a recurrence in blocks."""
        import torch

        from lightning_bench.families.recurrence import gated

        pairs, n, width = problem.v.shape
        heads = width // LAYER_HEAD_DIM
        q, k, v, u = (problem.v @ problem["projections"][:, i].mT for i in range(4))
        q, k = q * q.sigmoid(), k * k.sigmoid()
        q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2).flatten(0, 1) for x in (q, k, v))
        index = torch.arange(1, heads + 1, dtype=q.dtype, device=q.device)
        # The first layer of many: TransNormerLLM's factor for depth, 1 − layer/(layers − 1), is 1.
        slopes = torch.exp2(-8.0 * index / heads) * (1 + 1e-5)
        o = gated(q, k, v, -slopes.repeat(pairs)[:, None, None].expand(-1, n, 1))
        o = o.unflatten(0, (pairs, heads)).transpose(1, 2).flatten(2)
        o = o / (o.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        output: Tensor = (o * u) @ problem["out"].mT
        return output

    def flops(self, shape: Shape) -> tuple[float, float]:
        """Count five products with weights, backward twice that, and the attention."""
        tokens = shape.batch * shape.heads * shape.seq_len
        weights = tokens * 10.0 * shape.head_dim**2
        attention = tokens * 4.0 * shape.head_dim * LAYER_HEAD_DIM
        return weights + attention, 2.0 * weights + LINEAR_BACKWARD * attention
