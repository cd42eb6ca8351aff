"""GLA: gated linear attention, with a decay of each channel that each token decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_bench.case import Shape
from lightning_bench.families.definition import Definition, Problem, recurrent_flops
from lightning_bench.families.spec import QKV, Spec

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_bench.families.draw import Draw


class Gla(Definition):
    """Gated linear attention: log decays g [b, h, n, d] in the dtype of the case."""

    equation = "o_t = d^(−1/2) q_t S_t,  S_t = diag(exp(g_t)) S_{t−1} + k_tᵀ v_t"
    paper = "2312.06635"
    inputs = QKV | {"g": Spec("bhnd")}

    def make(self, draw: Draw) -> dict[str, Tensor]:
        """Return g = logsigmoid(normal) / 16: the paper's σ(x)^(1/τ) with τ = 16."""
        from torch.nn.functional import logsigmoid

        return {"g": logsigmoid(draw.normal("bhnd")) / 16.0}

    def output(self, problem: Problem) -> Tensor:
        """Return o from the recurrence, scaled."""
        from lightning_bench.families.recurrence import gated

        scale = float(problem.q.shape[-1]) ** -0.5
        return gated(problem.q * scale, problem.k, problem.v, problem["g"])

    def flops(self, shape: Shape) -> tuple[float, float]:
        """Count the update and the read of the state; the decay is not counted."""
        return recurrent_flops(shape)
