"""Linear attention without decay."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_bench.families.definition import Problem
from lightning_bench.families.linear_decay import LinearDecay

if TYPE_CHECKING:
    from torch import Tensor


class Linear(LinearDecay):
    """Linear attention without decay, feature map or normalisation."""

    equation = "o_t = q_t S_t,  S_t = S_{t−1} + k_tᵀ v_t"
    paper = "2006.16236"
    takes_slopes = False

    def _slopes(self, problem: Problem) -> Tensor:
        return 0.0 * problem.decay
