"""ABC: attention with bounded-memory control, over a fixed number of slots that tokens write to."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from lightning_bench.case import Shape
from lightning_bench.families.definition import LINEAR_BACKWARD, Definition, Problem
from lightning_bench.families.spec import QKV, Spec

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_bench.families.draw import Draw


SLOTS = 64


class Abc(Definition):
    """Token i writes to slot m with weight exp(s_im): a slot is a softmax average of the tokens so far."""

    equation = (
        "o_t = softmax_m(d^(−1/2) q_t·K_tm) V_t,  "
        "K_tm = Σ_{i≤t} exp(s_im) k_i / Σ_{i≤t} exp(s_im),  V_tm of v_i"
    )
    paper = "2110.02488"
    inputs = QKV | {"s": Spec("bhnm")}
    sizes: ClassVar[dict[str, int]] = {"m": SLOTS}

    def make(self, draw: Draw) -> dict[str, Tensor]:
        """Return s, the logits of the slots: standard normal."""
        return {"s": draw.normal("bhnm")}

    def output(self, problem: Problem) -> Tensor:
        """Return o from two linear attentions: the slots' weights are first the values, then the keys."""
        from lightning_bench.families.recurrence import gated

        s = problem["s"]
        weight = (s - s.detach().amax(1, keepdim=True)).exp()
        total = weight.cumsum(1)
        scale = float(problem.q.shape[-1]) ** -0.5
        scores = gated(problem.q * scale, problem.k, weight) / total
        return gated(scores.softmax(-1) / total, weight, problem.v)

    def flops(self, shape: Shape) -> tuple[float, float]:
        """Count two linear attentions, head_dim × slots and slots × value_dim."""
        tokens = shape.batch * shape.heads * shape.seq_len
        fwd = 4.0 * tokens * SLOTS * (shape.head_dim + shape.value_dim)
        return fwd, LINEAR_BACKWARD * fwd

    def span(self, shape: Shape) -> int:
        """Return two passes over a block of keys and the slots."""
        return 2 * (256 + SLOTS)
