"""RWKV-6: linear attention with a decay of each channel and a bonus for the current token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_bench.case import Shape
from lightning_bench.families.definition import Definition, Problem, recurrent_flops
from lightning_bench.families.spec import QKV, Spec

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_bench.families.draw import Draw


class Rwkv6(Definition):
    """RWKV-6: log decays w [b, h, n, d] in fp32, and a bonus u [h, d] for the token itself."""

    equation = "o_t = d^(−1/2) q_t (S_{t−1} + diag(u) k_tᵀ v_t),  S_t = diag(exp(w_t)) S_{t−1} + k_tᵀ v_t"
    paper = "2404.05892"
    inputs = QKV | {"w": Spec("bhnd", "fp32"), "u": Spec("hd", "fp32")}

    def make(self, draw: Draw) -> dict[str, Tensor]:
        """Return w and u in the ranges from which the official model is trained.

        w = −exp(x), where x rises from −6 to −1 over the channels, plus normal / 2 in place of the model's
        LoRA; u falls from 1 to 0 over the channels, plus noise.
        """
        channel = draw.steps("d") / max(1, draw.shape.head_dim - 1)
        w = -(-6.0 + 5.0 * channel + 0.5 * draw.normal("bhnd")).exp()
        return {"w": w, "u": 1.0 - channel + 0.1 * draw.normal("hd")}

    def output(self, problem: Problem) -> Tensor:
        """Return o from the recurrence; the state is read before it decays."""
        from lightning_bench.families.recurrence import gated

        scale = float(problem.q.shape[-1]) ** -0.5
        return gated(problem.q * scale, problem.k, problem.v, problem["w"], bonus=problem["u"])

    def flops(self, shape: Shape) -> tuple[float, float]:
        """Count the update and the read of the state; decay and bonus are not counted."""
        return recurrent_flops(shape)
