"""Linear attention with a fixed decay of each head: Lightning Attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_bench.case import Shape
from lightning_bench.families.definition import Definition, Problem, recurrent_flops

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class LinearDecay(Definition):
    """Lightning Attention-2, and simple GLA with one decay per head."""

    equation = "o_t = q_t S_t,  S_t = λ S_{t−1} + k_tᵀ v_t,  λ = exp(−s)"
    paper = "2401.04658"
    own_inputs = False
    takes_slopes = True

    def solve(
        self, problem: Problem, *, gradients: bool, output_dtype: torch.dtype | None = None
    ) -> dict[str, Tensor]:
        """Return the closed form, in which each gradient is a linear attention too."""
        from lightning_bench.families.exact import linear_attention

        return linear_attention(problem, self._slopes(problem), self._scale(problem), gradients=gradients)

    def flops(self, shape: Shape) -> tuple[float, float]:
        """Count the update and the read of the state."""
        return recurrent_flops(shape)

    def _slopes(self, problem: Problem) -> Tensor:
        return problem.decay

    def _scale(self, problem: Problem) -> float:
        return 1.0
