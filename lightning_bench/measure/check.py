"""The correctness gate: nothing is timed that does not agree with fp64 on the very inputs that are timed."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_bench.case import Dtype, Family, Layout, Shape
from lightning_bench.measure.inputs import TORCH_DTYPES, InputSet
from lightning_bench.measure.oracle import Problem, solve

TENSORS = ("o", "dq", "dk", "dv")

# The budget is this many times the error that rounding inputs and outputs alone causes, plus what fp32
# accumulation costs. Within a tile of rows the same error may bunch up, hence the wider local budget.
BUDGET_FACTOR = 2.0
ACCUMULATION = 2e-6
LOCAL_FACTOR = 4.0
_TILE = 64

# Half a unit in the last place, relative: the largest error of rounding to nearest.
_ROUNDING: dict[Dtype, float] = {"fp32": 2.0**-24, "fp16": 2.0**-11, "bf16": 2.0**-8}

# Multiply-adds that one oracle may take, so that sampling pairs stays a matter of a second.
_ORACLE_WORK = {"cuda": 4e12, "cpu": 1.5e9}
_MAX_PAIRS = 16


@dataclass(frozen=True)
class Verdict:
    """Worst relative L2 error per tensor over the checked pairs, the budget, and why it fails (or None)."""

    errors: dict[str, float]
    budget: float
    failure: str | None


def choose_pairs(shape: Shape, family: Family, seed: int) -> list[tuple[int, int]]:
    """(batch, head) pairs to check in full: always the first and the last, so both ends of the decay."""
    everything = [(b, h) for b in range(shape.batch) for h in range(shape.heads)]
    width = shape.head_dim + shape.value_dim
    span = shape.seq_len if family == "softmax" else 256 + shape.head_dim
    count = int(_ORACLE_WORK[shape.device] // (7.0 * shape.seq_len * span * width))
    count = max(2, min(count, _MAX_PAIRS))
    if len(everything) <= count:
        return everything
    middle = random.Random(seed).sample(everything[1:-1], count - 2)
    return [everything[0], *sorted(middle), everything[-1]]


class Reference:
    """fp64 results of one family on one input set, computed once and used for every provider."""

    def __init__(self, family: Family, inputs: InputSet, *, gradients: bool, seed: int) -> None:
        shape = inputs.shape
        self.shape = shape
        self.pairs = choose_pairs(shape, family, seed)
        q, k, v, do = (self._pick(x, "bhnd") for x in (inputs.q, inputs.k, inputs.v, inputs.do))
        decay = torch.stack([inputs.decay[h] for _, h in self.pairs]).double()
        problem = Problem(q, k, v, do, decay)
        self.tensors = solve(family, problem, gradients=gradients)
        self.grad_norm = problem.do.norm(dim=(1, 2))
        self.budgets = self._budgets(family, problem, seed)

    @property
    def held_bytes(self) -> int:
        """Bytes that the reference keeps on the device."""
        return sum(x.numel() * x.element_size() for x in self.tensors.values())

    def _budgets(self, family: Family, problem: Problem, seed: int) -> dict[str, float]:
        """BUDGET_FACTOR × the error of the same computation with inputs and outputs rounded.

        Over one pair, because pairs hardly differ, except on short sequences, where they do.
        """
        count = len(self.pairs) if self.shape.seq_len <= 1024 else 1
        generator = torch.Generator(device=problem.q.device).manual_seed(seed + 1)
        unit = _ROUNDING[self.shape.dtype]

        def rounded(x: Tensor) -> Tensor:
            first = x[:count]
            noise = torch.rand(first.shape, generator=generator, device=x.device, dtype=x.dtype)
            # Uniform within half a unit in the last place, whose relative size varies by two.
            return first * (1.0 + unit * 0.72 * (2.0 * noise - 1.0))

        q, k, v, do = (rounded(x) for x in (problem.q, problem.k, problem.v, problem.do))
        nearby = Problem(q, k, v, do, problem.decay[:count])
        dtype = TORCH_DTYPES[self.shape.dtype]
        answers = solve(family, nearby, gradients="dq" in self.tensors, output_dtype=dtype)
        return {
            name: BUDGET_FACTOR * max(unit, self._errors(answer, self.tensors[name][:count])[0])
            + ACCUMULATION
            for name, answer in answers.items()
        }

    def judge(self, got: dict[str, Tensor], layout: Layout) -> Verdict:
        """Compare tensors in ``layout`` with the reference; every tensor in ``got`` is checked."""
        errors: dict[str, float] = {}
        failures: list[str] = []
        for name, tensor in got.items():
            failure = self._shape_failure(name, tensor, layout)
            if failure is None:
                mine = self._pick(tensor, layout)
                errors[name], local = self._errors(mine, self.tensors[name])
                failure = self._failure(name, errors[name], local, mine)
            if failure is not None:
                failures.append(failure)
        worst = max(self.budgets[name] for name in got)
        return Verdict(errors, worst, "; ".join(failures) or None)

    def _shape_failure(self, name: str, tensor: Tensor, layout: Layout) -> str | None:
        dim = self.shape.value_dim if name in ("o", "dv") else self.shape.head_dim
        b, h, n = self.shape.batch, self.shape.heads, self.shape.seq_len
        expected = (b, h, n, dim) if layout == "bhnd" else (b, n, h, dim)
        if tuple(tensor.shape) != expected:
            return f"{name} has shape {tuple(tensor.shape)}, not {expected}"
        return None

    def _errors(self, got: Tensor, exact: Tensor) -> tuple[float, float]:
        """(worst relative L2 error over pairs, worst over tiles of rows)."""
        norms = exact.norm(dim=(1, 2))
        grad_norms = self.grad_norm[: len(norms)]
        # A tensor that is exactly zero (softmax, seq_len 1: dq and dk) is judged against do instead.
        norms = torch.where(norms > 1e-12 * grad_norms, norms, grad_norms)
        difference = got - exact
        whole = (difference.norm(dim=(1, 2)) / norms).max().item()
        pad = -exact.shape[1] % _TILE
        tiles = [
            torch.nn.functional.pad(x.square().sum(-1), (0, pad)).unflatten(1, (-1, _TILE)).sum(-1).sqrt()
            for x in (difference, exact)
        ]
        rows = torch.full_like(tiles[1], float(_TILE))
        rows[:, -1] -= pad
        typical = norms[:, None] * (rows / exact.shape[1]).sqrt()
        local = (tiles[0] / torch.maximum(tiles[1], typical)).max().item()
        return whole, local

    def _failure(self, name: str, error: float, local: float, got: Tensor) -> str | None:
        budget = self.budgets[name]
        if math.isnan(error) or math.isinf(error):
            bad = int((~torch.isfinite(got)).any(-1).sum())
            return f"{name} has NaN or Inf in {bad} of {got.shape[0] * got.shape[1]} checked rows"
        if error > budget:
            hint = " (what TF32 gives)" if self.shape.dtype == "fp32" and 5e-5 < error < 5e-3 else ""
            return f"{name} is off by {error:.1e} relative L2{hint}, the budget is {budget:.1e}"
        if local > LOCAL_FACTOR * budget:
            return (
                f"{name} is off by {local:.1e} in one tile of {_TILE} rows, "
                f"the budget there is {LOCAL_FACTOR * budget:.1e}"
            )
        return None

    def _pick(self, tensor: Tensor, layout: Layout) -> Tensor:
        """The checked pairs in fp64, [pairs, seq_len, dim]."""
        views = [tensor[b, h] if layout == "bhnd" else tensor[b, :, h] for b, h in self.pairs]
        return torch.stack(views).detach().double()


@contextmanager
def poisoned(inputs: InputSet, *, gradients: bool) -> Iterator[None]:
    """Show rows that are never written: what outputs are put in holds NaN, not an earlier right answer.

    A GPU's allocator hands out again the blocks that are filled and freed here. A CPU's promises no such
    order, so torch itself fills all uninitialized memory there.
    """
    if inputs.shape.device == "cpu":
        mode = torch.get_deterministic_debug_mode()
        torch.set_deterministic_debug_mode("warn")
        try:
            yield
        finally:
            torch.set_deterministic_debug_mode(mode)
        return
    like = [inputs.v, *([inputs.q, inputs.k, inputs.v] if gradients else [])]
    junk = [torch.full_like(x, math.nan, requires_grad=False) for x in like]
    del junk
    yield
