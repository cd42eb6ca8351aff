"""A second implementation, for pairs that the oracle has no time for: those of long softmax attention.

Where fp64 takes too long for every (batch, head) pair, a fused kernel of torch computes them all. It must
pass on the sample of pairs that fp64 has, as every provider must. A provider that differs from it in another
pair is not wrong by that: fp64 decides on that pair (`Reference.settle`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_bench.case import Family
from lightning_bench.families import Problem, definition_of
from lightning_bench.measure.deviation import in_sample
from lightning_bench.measure.oracle import Reference, pair_work

# Taken before any provider is imported, which could replace it.
_grad = torch.autograd.grad

# Multiply-adds, as the oracle counts them, of about ten seconds: longer calls can hardly be sampled.
_WORK = {"cuda": 6e15, "cpu": 6e12}
_FP32_ON_CUDA = 8.0


def solve_fused(family: Family, problem: Problem, *, gradients: bool) -> dict[str, Tensor]:
    """Return what the oracle's `solve` does, by the family's fused form, in the dtypes of the problem.

    Raise NotImplementedError if the family has no such form, RuntimeError if these inputs have none.
    """
    defined = definition_of(family)
    if not gradients:
        with torch.no_grad():
            return {"o": defined.fused(problem)}
    leaves = {name: problem[name].detach().clone().requires_grad_() for name in defined.gradients}
    with torch.enable_grad():
        o = defined.fused(problem.replaced(leaves))
    grads = _grad(o, list(leaves.values()), problem.do)
    return {"o": o.detach(), **{f"d{name}": x for name, x in zip(leaves, grads, strict=True)}}


def consult_second(family: Family, reference: Reference) -> None:
    """Sketch every pair of a reference by a second implementation, if the oracle could not and it can."""
    shape = reference.shape
    work = shape.batch * shape.heads * pair_work(shape, definition_of(family))
    if shape.device == "cuda" and shape.dtype == "fp32":
        work *= _FP32_ON_CUDA
    if reference.sketches or work > _WORK[shape.device] or shape.variant.documents:
        return

    def solver(problem: Problem) -> dict[str, Tensor]:
        return solve_fused(family, problem, gradients=len(reference.tensors) > 1)

    try:
        sample = reference.by_second(solver, reference.pairs)
        found = [each for name, x in sample.items() for each in in_sample(reference, name, x)]
        if all(each.ratio <= 1.0 for each in found):
            reference.fill_by_second(solver)
    except (NotImplementedError, RuntimeError):  # none for these inputs, or no memory for it
        reference.sketches.clear()
