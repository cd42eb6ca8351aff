"""Based: linear attention with the Taylor expansion of exp, to the second order, as its feature map."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_bench.case import Shape
from lightning_bench.families.definition import LINEAR_BACKWARD, Definition, Problem

if TYPE_CHECKING:
    from torch import Tensor


class Based(Definition):
    """φ(q)·φ(k) = 1 + x + x²/2 with x = d^(−1/2) q·k, normalised; head_dim is the feature dim, 16."""

    equation = "o_t = Σ_{i≤t} f(x_ti) v_i / Σ_{i≤t} f(x_ti),  f(x) = 1 + x + x²/2,  x_ti = d^(−1/2) q_t·k_i"
    paper = "2402.18668"
    own_inputs = False

    def output(self, problem: Problem) -> Tensor:
        """Return linear attention of the features (1, q, q⊗q/√2); its normaliser is one more value."""
        import torch

        from lightning_bench.families.recurrence import gated

        root = float(problem.q.shape[-1]) ** -0.25

        def features(x: Tensor) -> Tensor:
            squares = (x[..., :, None] * x[..., None, :]).flatten(-2) * 0.5**0.5
            return torch.cat([torch.ones_like(x[..., :1]), x, squares], -1)

        ones = torch.ones_like(problem.v[..., :1])
        values = torch.cat([problem.v, ones], -1)
        outputs = gated(features(problem.q * root), features(problem.k * root), values)
        return outputs[..., :-1] / outputs[..., -1:]

    def flops(self, shape: Shape) -> tuple[float, float]:
        """Count the cheaper of a recurrence over 1 + d + d (d + 1) / 2 features and n²/2 pairs of tokens."""
        tokens = shape.batch * shape.heads * shape.seq_len
        d, e = shape.head_dim, shape.value_dim
        features = 1 + d + d * (d + 1) // 2
        recurrent = 4.0 * tokens * features * (e + 1)
        pairs = float(tokens * shape.seq_len * (d + e))
        fwd = min(recurrent, pairs)
        return fwd, LINEAR_BACKWARD * fwd  # five products for two in either form

    def span(self, shape: Shape) -> int:
        """Return a block of keys and the features of the state."""
        return 256 + shape.head_dim * (shape.head_dim + 1)
