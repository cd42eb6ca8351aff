"""fp64 oracles, one a family: output and gradients for sampled (batch, head) pairs.

Each family's definition in ``lightning_bench.families`` has its oracle: written from the definition, in
blocks so that long sequences fit, and independently of every provider, the bundled kernels included.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_bench.case import Family
from lightning_bench.families import Problem, definition_of

__all__ = ["Problem", "solve"]


def solve(
    family: Family, problem: Problem, *, gradients: bool, output_dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    """The output ``o`` and, where asked for, the gradient ``dNAME`` of each input that has one, in fp64.

    ``linear_decay`` and ``linear`` are unscaled; ``softmax`` is causal with scale 1/√head_dim; the others
    say so in their equation. With an ``output_dtype`` every result is rounded to it (gradients of fp32
    inputs to fp32), and so is the o that the softmax gradients start from.
    """
    defined = definition_of(family)
    tensors = defined.solve(problem, gradients=gradients, output_dtype=output_dtype)

    def rounded(name: str, x: Tensor) -> Tensor:
        fp32 = name != "o" and defined.inputs[name.removeprefix("d")].dtype == "fp32"
        to = torch.float32 if fp32 and output_dtype != torch.float64 else output_dtype
        return x.to(to).double()

    return {name: rounded(name, x) for name, x in tensors.items()}
