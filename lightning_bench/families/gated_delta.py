"""Gated DeltaNet: the delta rule removes what the state recalls for a key before it writes the value."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_bench.case import Shape
from lightning_bench.families.definition import Definition, Problem
from lightning_bench.families.spec import QKV, Spec

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_bench.families.draw import Draw


class GatedDelta(Definition):
    """Gated DeltaNet: log decays g and strengths beta, [b, h, n], g in fp32; q and k have length one."""

    equation = "o_t = d^(−1/2) q_t S_t,  S_t = exp(g_t) (I − β_t k_tᵀ k_t) S_{t−1} + β_t k_tᵀ v_t"
    paper = "2412.06464"
    inputs = QKV | {"g": Spec("bhn", "fp32"), "beta": Spec("bhn")}
    gate_axes = "bhn"

    def make(self, draw: Draw) -> dict[str, Tensor]:
        """Return q and k normalised, g as of Mamba-2, and beta = sigmoid(normal)."""
        from torch.nn.functional import normalize

        return {
            "q": normalize(draw.q.float(), dim=-1),
            "k": normalize(draw.k.float(), dim=-1),
            "g": draw.mamba2_log_decay(self.gate_axes),
            "beta": draw.normal("bhn").sigmoid(),
        }

    def output(self, problem: Problem) -> Tensor:
        """Return o from the recurrence, scaled."""
        from lightning_bench.families.recurrence import delta

        g = problem["g"]
        scale = float(problem.q.shape[-1]) ** -0.5
        decay = g if g.dim() == problem.q.dim() else g[..., None]
        return delta(problem.q * scale, problem.k, problem.v, decay, problem["beta"])

    def flops(self, shape: Shape) -> tuple[float, float]:
        """Count three products per token and head: recall k's value, update the state, read it.

        Backward eight: the states are computed again (two), and each product has two for its gradients.
        """
        product = 2.0 * shape.batch * shape.heads * shape.seq_len * shape.head_dim * shape.value_dim
        return 3.0 * product, 8.0 * product
