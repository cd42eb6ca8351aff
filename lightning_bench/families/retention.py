"""Retention: linear attention with RetNet's decays and scale."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lightning_bench.families.definition import Problem
from lightning_bench.families.linear_decay import LinearDecay

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_bench.families.draw import Draw


class Retention(LinearDecay):
    """RetNet's operator: λ_h = 1 − 2^(−5−h), scale 1/√head_dim; the model rotates q and k before it."""

    equation = "o_t = d^(−1/2) q_t S_t,  S_t = λ_h S_{t−1} + k_tᵀ v_t,  λ_h = 1 − 2^(−5−h)"
    paper = "2307.08621"
    own_inputs = True

    def make(self, draw: Draw) -> dict[str, Tensor]:
        """Return the slopes s_h = −log(1 − 2^(−5−h)) as `decay`, computed in fp64."""
        import torch

        return {"decay": -torch.log1p(-(2.0 ** (-5.0 - draw.steps("h").double())))}

    def _scale(self, problem: Problem) -> float:
        return 1.0 / math.sqrt(problem.q.shape[-1])
