"""Linear attention with a fixed decay as an engine serves it: from a state of each sequence to its next."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from lightning_bench.case import Shape
from lightning_bench.families.definition import Definition, Problem, recurrent_flops
from lightning_bench.families.spec import Spec

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import Tensor

    from lightning_bench.families.draw import Draw

HISTORY = 1024
"""Tokens that the states have seen before a call."""


class ServedDecay(Definition):
    """Prompts, parts of prompts and decoding tokens, against a pool of states that is updated in place.

    Decoding is seq_len 1. A batch of different lengths is a packing, whose documents are the sequences.
    """

    equation = "o_t = q_t S_t,  S_t = λ S_{t−1} + k_tᵀ v_t from S_0 of a pool, which gets the last S_t"
    paper = "2401.04658"
    inputs: ClassVar[Mapping[str, Spec]] = {
        "q": Spec("bhnd", gradient=False),
        "k": Spec("bhnd", gradient=False, of_kv=True),
        "v": Spec("bhne", gradient=False, of_kv=True),
        "state": Spec("bhre", dtype="fp32", gradient=False),
    }
    updates: ClassVar[tuple[str, ...]] = ("state",)
    takes_slopes = True

    def make(self, draw: Draw) -> dict[str, Tensor]:
        """Return the states, normal with the variance of the sum that `HISTORY` tokens leave."""
        import torch

        steps = torch.arange(HISTORY, dtype=torch.float64, device=draw.decay.device)
        kept = torch.exp(-2.0 * draw.decay.double()[:, None] * steps).sum(1)
        return {"state": draw.normal("bhre") * kept.sqrt().float()[:, None, None]}

    def solve(
        self, problem: Problem, *, gradients: bool, output_dtype: torch.dtype | None = None
    ) -> dict[str, Tensor]:
        """Return `o` and the last state, `state`; there are no gradients."""
        from lightning_bench.families.exact import continued

        o, state = continued(problem.q, problem.k, problem.v, problem.decay, problem["state"])
        return {"o": o, "state": state}

    def flops(self, shape: Shape) -> tuple[float, float]:
        """Count the update and the read of the state."""
        return recurrent_flops(shape)[0], 0.0
