"""GateLoop: a recurrence of single numbers, in which each channel has its own real gate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_bench.case import Shape
from lightning_bench.families.definition import Definition, Problem
from lightning_bench.families.spec import QKV, Spec

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_bench.families.draw import Draw


class GateLoop(Definition):
    """GateLoop with real gates; value_dim is head_dim, since a channel's state is one number."""

    equation = "o_t = q_t ⊙ h_t,  h_t = exp(g_t) ⊙ h_{t−1} + k_t ⊙ v_t"
    paper = "2311.01927"
    inputs = QKV | {"g": Spec("bhnd")}

    def make(self, draw: Draw) -> dict[str, Tensor]:
        """Return g = logsigmoid(normal): the paper's magnitude, the sigmoid of a projection."""
        from torch.nn.functional import logsigmoid

        return {"g": logsigmoid(draw.normal("bhnd"))}

    def output(self, problem: Problem) -> Tensor:
        """Return o from the recurrence of each channel."""
        from lightning_bench.families.recurrence import elementwise

        return problem.q * elementwise(problem.k * problem.v, problem["g"])

    def flops(self, shape: Shape) -> tuple[float, float]:
        """Count five per element: exp, k·v, a multiply-add, the product with q; backward 2.5 times that."""
        return 5.0 * shape.q_elements, 12.5 * shape.q_elements
