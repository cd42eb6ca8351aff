"""Softmax attention whose keys are vectors of a codebook: Transformer-VQ."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from lightning_bench.case import Shape
from lightning_bench.families.definition import Definition, Problem
from lightning_bench.families.spec import QKV, Spec

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import Tensor

    from lightning_bench.families.draw import Draw


class VqAttention(Definition):
    """Transformer-VQ's attention only, without positional bias; gradients of keys go to the codebook."""

    equation = "o_t = Σ_{i≤t} softmax_i(d^(−1/2) q_t·C[z_i]) v_i"
    paper = "2309.16354"
    sizes: ClassVar[Mapping[str, int]] = {"m": 512}
    inputs: ClassVar[Mapping[str, Spec]] = {
        "q": QKV["q"],
        "codes": Spec("bhn", "int64", gradient=False),
        "codebook": Spec("hmd"),
        "v": QKV["v"],
    }

    def make(self, draw: Draw) -> dict[str, Tensor]:
        """Return C, 512 normal codes as in the paper, of the keys' size, and z, the nearest of each key."""
        codebook = draw.normal("hmd") * draw.k.float().square().mean().sqrt()
        closeness = draw.k.float() @ codebook.mT - 0.5 * codebook.square().sum(-1)[:, None]
        return {"codebook": codebook, "codes": closeness.argmax(-1)}

    def solve(
        self, problem: Problem, *, gradients: bool, output_dtype: torch.dtype | None = None
    ) -> dict[str, Tensor]:
        """Return the quadratic form with the keys looked up; their gradients are summed into their codes."""
        import torch

        from lightning_bench.families.exact import softmax_attention

        codebook = problem["codebook"]  # [P, m, d]
        where = problem["codes"][..., None].expand(-1, -1, codebook.shape[2])
        full = problem.replaced({"k": codebook.gather(1, where)})
        to = output_dtype or torch.float64
        tensors = softmax_attention(full, gradients=gradients, output_dtype=to, causal=True)
        if gradients:
            tensors["dcodebook"] = torch.zeros_like(codebook).scatter_add_(1, where, tensors.pop("dk"))
        return tensors

    def fused(self, problem: Problem) -> Tensor:
        """Return torch's fused attention to the keys that were looked up, whose gradients add up in fp32."""
        from lightning_bench.families.fused import fused_attention

        codebook = problem["codebook"]
        where = problem["codes"][..., None].expand(-1, -1, codebook.shape[2])
        keys = codebook.float().gather(1, where).to(problem.q.dtype)
        return fused_attention(problem.q, keys, problem.v, causal=True)

    def flops(self, shape: Shape) -> tuple[float, float]:
        """Count two products with one key per code, or with n/2 keys if these are fewer."""
        keys = min(float(self.sizes["m"]), shape.seq_len / 2)
        fwd = 2.0 * shape.batch * shape.heads * shape.seq_len * keys * (shape.head_dim + shape.value_dim)
        return fwd, 2.5 * fwd

    def span(self, shape: Shape) -> int:
        """Return every key."""
        return shape.seq_len
