"""Softmax attention without a mask."""

from __future__ import annotations

from lightning_bench.case import Shape
from lightning_bench.families.softmax import Softmax


class SoftmaxFull(Softmax):
    """Attention of every token to every other, which the flash-linear-attention README timed as flash."""

    equation = "o_t = Σ_i softmax_i(d^(−1/2) q_t·k_i) v_i"
    causal = False

    def flops(self, shape: Shape) -> tuple[float, float]:
        """Count twice the pairs of the causal form."""
        fwd, bwd = super().flops(shape)
        return 2.0 * fwd, 2.0 * bwd
