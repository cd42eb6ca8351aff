"""GateLoop with complex gates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_bench.case import Shape
from lightning_bench.families.definition import Problem
from lightning_bench.families.gateloop import GateLoop
from lightning_bench.families.spec import Spec

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_bench.families.draw import Draw


class GateLoopComplex(GateLoop):
    """GateLoop with complex gates in polar form: log magnitude g and phase φ, [b, h, n, d]."""

    equation = "o_t = q_t ⊙ Re h_t,  h_t = exp(g_t + iφ_t) ⊙ h_{t−1} + k_t ⊙ v_t"
    inputs = GateLoop.inputs | {"phase": Spec("bhnd")}

    def make(self, draw: Draw) -> dict[str, Tensor]:
        """Return g as with real gates, and φ = normal: the paper's phase is a projection as it is."""
        return super().make(draw) | {"phase": draw.normal("bhnd")}

    def output(self, problem: Problem) -> Tensor:
        """Return o from the recurrence of each channel; q, k and v are real."""
        import torch

        from lightning_bench.families.recurrence import elementwise

        gates = torch.complex(problem["g"], problem["phase"])
        return problem.q * elementwise(problem.k * problem.v, gates).real

    def flops(self, shape: Shape) -> tuple[float, float]:
        """Count twice the operations of real gates, and twice the work of the gate."""
        return 12.0 * shape.q_elements, 30.0 * shape.q_elements
