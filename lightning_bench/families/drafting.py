"""Speculative decoding: a draft of each sequence is computed, and the state keeps what is accepted of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from lightning_bench.families.definition import Problem
from lightning_bench.families.serving import ServedDecay
from lightning_bench.families.spec import Spec

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import Tensor

    from lightning_bench.families.draw import Draw


class Drafting(ServedDecay):
    """One round: o of all tokens of a draft of seq_len tokens; the pool gets the state after a of them.

    Which are accepted follows from o in an engine. Here `accepted` is an input, the same for all heads.
    """

    equation = (
        "o_t = q_t S_t,  S_t = λ S_{t−1} + k_tᵀ v_t from S_0 of a pool, which gets S_a of a accepted tokens"
    )
    inputs: ClassVar[Mapping[str, Spec]] = {
        **ServedDecay.inputs,
        "accepted": Spec("bh", dtype="int64", gradient=False),
    }

    def make(self, draw: Draw) -> dict[str, Tensor]:
        """Return the states, and how many tokens are accepted: 1, 2, … seq_len, and again from 1."""
        accepted = draw.steps("b").remainder(draw.shape.seq_len) + 1
        return {**super().make(draw), "accepted": accepted[:, None].expand(-1, draw.shape.heads)}

    def solve(
        self, problem: Problem, *, gradients: bool, output_dtype: torch.dtype | None = None
    ) -> dict[str, Tensor]:
        """Return `o` of every token, and the state after those that are accepted, `state`."""
        import torch

        solved = super().solve(problem, gradients=gradients)
        count = problem["accepted"][:, None]
        behind = count - 1 - torch.arange(problem.k.shape[1], device=count.device)
        rate = problem.decay[:, None]
        weight = torch.where(behind >= 0, torch.exp(-rate * behind.clamp(min=0)), 0.0)
        kept = torch.exp(-rate * count)[:, :, None] * problem["state"]
        return {"o": solved["o"], "state": kept + (weight[:, :, None] * problem.k).mT @ problem.v}
