"""The gated delta rule: what a key already recalls is taken away before its value is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_bench.case import Shape
from lightning_bench.families.base import QKV, Definition, Problem, Spec
from lightning_bench.families.gated import step_decay

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_bench.families.draw import Draw


class GatedDelta(Definition):
    """Gated DeltaNet: log decays g and strengths beta, [b, h, n], g in fp32; q and k of length one."""

    equation = "o_t = d^(−1/2) q_t S_t,  S_t = exp(g_t) (I − β_t k_tᵀ k_t) S_{t−1} + β_t k_tᵀ v_t"
    paper = "2412.06464"
    inputs = QKV | {"g": Spec("bhn", "fp32"), "beta": Spec("bhn")}
    gate_axes = "bhn"

    def make(self, draw: Draw) -> dict[str, Tensor]:
        """q and k normalised; g as of Mamba-2; beta = sigmoid(normal)."""
        from torch.nn.functional import normalize

        return {
            "q": normalize(draw.q.float(), dim=-1),
            "k": normalize(draw.k.float(), dim=-1),
            "g": step_decay(draw, self.gate_axes),
            "beta": draw.normal("bhn").sigmoid(),
        }

    def output(self, problem: Problem) -> Tensor:
        """The recurrence."""
        from lightning_bench.families.recurrence import delta

        g = problem["g"]
        scale = float(problem.q.shape[-1]) ** -0.5
        decay = g if g.dim() == problem.q.dim() else g[..., None]
        return delta(problem.q * scale, problem.k, problem.v, decay, problem["beta"])

    def flops(self, shape: Shape) -> tuple[float, float]:
        """Per token and head the state is asked for k's value, updated and read: three products.

        Backward makes the states again (two of them) and has two products for the gradients of each: eight.
        """
        one = 2.0 * shape.batch * shape.heads * shape.seq_len * shape.head_dim * shape.value_dim
        return 3.0 * one, 8.0 * one


class Kda(GatedDelta):
    """Kimi Delta Attention: the same with log decays of each channel, g [b, h, n, d] in fp32."""

    equation = "o_t = d^(−1/2) q_t S_t,  S_t = (I − β_t k_tᵀ k_t) diag(exp(g_t)) S_{t−1} + β_t k_tᵀ v_t"
    paper = "2510.26692"
    inputs = QKV | {"g": Spec("bhnd", "fp32"), "beta": Spec("bhn")}
    gate_axes = "bhnd"
