"""SimpleRMSNorm: no attention, but what TransNormerLLM puts behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from lightning_bench.case import Shape
from lightning_bench.families.base import QKV, Definition, Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from lightning_bench.families.base import Spec
    from lightning_bench.families.draw import Draw


class Norm(Definition):
    """Each row of v over its root mean square; a model's [batch, seq_len, dim] has one head of dim."""

    equation = "o_t = v_t / √(mean(v_t²) + 10⁻⁶)"
    paper = "2307.14995"
    inputs: ClassVar[Mapping[str, Spec]] = {"v": QKV["v"]}

    def make(self, draw: Draw) -> dict[str, Tensor]:
        """Nothing: v is standard normal."""
        return {}

    def output(self, problem: Problem) -> Tensor:
        """As written."""
        v = problem.v
        return v / (v.square().mean(-1, keepdim=True) + 1e-6).sqrt()

    def flops(self, shape: Shape) -> tuple[float, float]:
        """Square, sum and scale; backward two sums and their combination."""
        return 3.0 * shape.v_elements, 8.0 * shape.v_elements
