"""SimpleRMSNorm: the normalisation that TransNormerLLM applies after its attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from lightning_bench.case import Shape
from lightning_bench.families.definition import Definition, Problem
from lightning_bench.families.spec import QKV, Spec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from lightning_bench.families.draw import Draw


class Norm(Definition):
    """Each row of v divided by its root mean square; a model's [batch, seq_len, dim] has one head of dim."""

    equation = "o_t = v_t / √(mean(v_t²) + 10⁻⁶)"
    paper = "2307.14995"
    inputs: ClassVar[Mapping[str, Spec]] = {"v": QKV["v"]}

    def make(self, draw: Draw) -> dict[str, Tensor]:
        """Return nothing: v stays standard normal."""
        return {}

    def output(self, problem: Problem) -> Tensor:
        """Return the equation as written."""
        v = problem.v
        return v / (v.square().mean(-1, keepdim=True) + 1e-6).sqrt()

    def flops(self, shape: Shape) -> tuple[float, float]:
        """Count square, sum and scale; backward, two sums and their combination."""
        return 3.0 * shape.o_elements, 8.0 * shape.o_elements
