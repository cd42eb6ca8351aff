"""Mamba-2 (SSD): linear attention with a decay of each head that each token decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_bench.case import Shape
from lightning_bench.families.definition import Definition, Problem, recurrent_flops
from lightning_bench.families.spec import QKV, Spec

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_bench.families.draw import Draw


class Mamba2(Definition):
    """Simple GLA with a gate of each token: q is C, k is B, v is Δ·x; log decays g = Δ·A [b, h, n], fp32."""

    equation = "o_t = q_t S_t,  S_t = exp(g_t) S_{t−1} + k_tᵀ v_t"
    paper = "2405.21060"
    inputs = QKV | {"g": Spec("bhn", "fp32")}

    def make(self, draw: Draw) -> dict[str, Tensor]:
        """Return g in the ranges of the model's initialisation."""
        return {"g": draw.mamba2_log_decay("bhn")}

    def output(self, problem: Problem) -> Tensor:
        """Return o from the recurrence, unscaled."""
        from lightning_bench.families.recurrence import gated

        return gated(problem.q, problem.k, problem.v, problem["g"][..., None])

    def flops(self, shape: Shape) -> tuple[float, float]:
        """Count the update and the read of the state."""
        return recurrent_flops(shape)
