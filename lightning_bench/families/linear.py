"""Linear attention: with a fixed decay per head, without, and with RetNet's decays and scale."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lightning_bench.case import Shape
from lightning_bench.families.base import Definition, Problem, recurrent_flops

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from lightning_bench.families.draw import Draw


class LinearDecay(Definition):
    """Lightning Attention-2, simple GLA with one decay a head."""

    equation = "o_t = q_t S_t,  S_t = λ S_{t−1} + k_tᵀ v_t,  λ = exp(−s)"
    paper = "2401.04658"
    own_inputs = False

    def solve(
        self, problem: Problem, *, gradients: bool, output_dtype: torch.dtype | None = None
    ) -> dict[str, Tensor]:
        """In closed form: the gradients are three linear attentions."""
        from lightning_bench.families.exact import linear_attention

        return linear_attention(problem, self._slopes(problem), self._scale(problem), gradients=gradients)

    def flops(self, shape: Shape) -> tuple[float, float]:
        """Per token and head the state is updated and read; backward is three linear attentions."""
        return recurrent_flops(shape, 2)

    def _slopes(self, problem: Problem) -> Tensor:
        return problem.decay

    def _scale(self, problem: Problem) -> float:
        return 1.0


class Linear(LinearDecay):
    """Linear attention without decay, feature map or normalisation."""

    equation = "o_t = q_t S_t,  S_t = S_{t−1} + k_tᵀ v_t"
    paper = "2006.16236"

    def _slopes(self, problem: Problem) -> Tensor:
        return 0.0 * problem.decay


class Retention(LinearDecay):
    """RetNet: the same with λ_h = 1 − 2^(−5−h) and scale 1/√head_dim; q and k are rotated before."""

    equation = "o_t = d^(−1/2) q_t S_t,  S_t = λ_h S_{t−1} + k_tᵀ v_t,  λ_h = 1 − 2^(−5−h)"
    paper = "2307.08621"
    own_inputs = True

    def make(self, draw: Draw) -> dict[str, Tensor]:
        """The slopes s_h = −log(1 − 2^(−5−h)), computed in fp64."""
        import torch

        return {"decay": -torch.log1p(-(2.0 ** (-5.0 - draw.steps("h").double())))}

    def _scale(self, problem: Problem) -> float:
        return 1.0 / math.sqrt(problem.q.shape[-1])
