"""Causal softmax attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from lightning_bench.case import Shape
from lightning_bench.families.definition import Definition, Problem

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Softmax(Definition):
    """Attention as in the Transformer, with the causal mask and scale 1/√head_dim."""

    equation = "o_t = Σ_{i≤t} softmax_i(d^(−1/2) q_t·k_i) v_i"
    paper = "1706.03762"
    own_inputs = False
    causal: ClassVar[bool] = True

    def solve(
        self, problem: Problem, *, gradients: bool, output_dtype: torch.dtype | None = None
    ) -> dict[str, Tensor]:
        """Return the closed form, a block of queries at a time; gradients start from the rounded output."""
        import torch

        from lightning_bench.families.exact import softmax_attention

        to = output_dtype or torch.float64
        return softmax_attention(problem, causal=self.causal, gradients=gradients, output_dtype=to)

    def fused(self, problem: Problem) -> Tensor:
        """Return torch's fused attention."""
        from lightning_bench.families.fused import fused_attention

        return fused_attention(problem.q, problem.k, problem.v, causal=self.causal)

    def flops(self, shape: Shape) -> tuple[float, float]:
        """Count two products over n²/2 pairs; backward five (FlashAttention-2, arXiv 2307.08691, 4.1)."""
        tokens = shape.batch * shape.heads * shape.seq_len
        fwd = float(tokens * shape.seq_len * (shape.head_dim + shape.value_dim))
        return fwd, 2.5 * fwd

    def span(self, shape: Shape) -> int:
        """Return every key."""
        return shape.seq_len
