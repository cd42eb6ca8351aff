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
from lightning_bench.families import Spec, definition_of
from lightning_bench.measure.inputs import TORCH_DTYPES, InputSet
from lightning_bench.measure.oracle import Problem, solve

TENSORS = ("o", "dq", "dk", "dv")
"""What has an error column of its own; gradients of all other inputs share ``error_dgate``."""

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
    """(batch, head) pairs to check in full: always the first and the last, so both ends of the decay.

    Where a gradient sums over the batch, all sequences of the first and the last head.
    """
    defined = definition_of(family)
    if defined.whole_heads:
        heads = dict.fromkeys((0, shape.heads - 1))
        return [(b, h) for h in heads for b in range(shape.batch)]
    everything = [(b, h) for b in range(shape.batch) for h in range(shape.heads)]
    width = shape.head_dim + shape.value_dim
    count = int(_ORACLE_WORK[shape.device] // (7.0 * shape.seq_len * defined.span(shape) * width))
    count = max(2, min(count, _MAX_PAIRS))
    if len(everything) <= count:
        return everything
    middle = random.Random(seed).sample(everything[1:-1], count - 2)
    return [everything[0], *sorted(middle), everything[-1]]


class Reference:
    """fp64 results of one family on one input set, computed once and used for every provider."""

    def __init__(self, family: Family, inputs: InputSet, *, gradients: bool, seed: int) -> None:
        inputs = inputs.of(family)
        shape = inputs.shape
        self.shape, self._defined = shape, definition_of(family)
        self.pairs = choose_pairs(shape, family, seed)
        specs = self._defined.inputs
        given = inputs.inputs("bhnd")
        q, k, v, do = (self._pick(x, Spec("bhnd"), "bhnd") for x in (given.q, given.k, given.v, inputs.do))
        decay = torch.stack([inputs.decay[h] for _, h in self.pairs]).double()
        more = {name: self._pick(x, specs[name], "bhnd") for name, x in given.more.items()}
        problem = Problem(q, k, v, do, decay, more)
        solved = solve(family, problem, gradients=gradients)
        self.grad_norm = problem.do.norm(dim=(1, 2))
        self.budgets = self._budgets(family, problem, solved, seed)
        self.tensors = {name: self._over_batch(name, x) for name, x in solved.items()}

    @property
    def held_bytes(self) -> int:
        """Bytes that the reference keeps on the device."""
        return sum(x.numel() * x.element_size() for x in self.tensors.values())

    def _budgets(
        self, family: Family, problem: Problem, solved: dict[str, Tensor], seed: int
    ) -> dict[str, float]:
        """BUDGET_FACTOR × the error of the same computation with inputs and outputs rounded.

        Over one pair, because pairs hardly differ, except on short sequences, where they do.
        """
        count = len(self.pairs) if self.shape.seq_len <= 1024 else 1
        generator = torch.Generator(device=problem.q.device).manual_seed(seed + 1)
        unit = _ROUNDING[self.shape.dtype]

        def rounded(x: Tensor, error: float) -> Tensor:
            noise = torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype)
            # Uniform within half a unit in the last place, whose relative size varies by two.
            return x * (1.0 + error * 0.72 * (2.0 * noise - 1.0))

        first = problem.part(slice(count))
        moved = {name: rounded(first[name], unit) for name in ("q", "k", "v", "do")}
        for name, x in first.more.items():
            wanted = self._defined.inputs[name].dtype
            if wanted != "int64":
                moved[name] = rounded(x, _ROUNDING[wanted or self.shape.dtype])
        dtype = TORCH_DTYPES[self.shape.dtype]
        answers = solve(family, first.replaced(moved), gradients=len(solved) > 1, output_dtype=dtype)

        def budget(name: str, answer: Tensor) -> float:
            error = self._errors(self._rows(name, answer), self._rows(name, solved[name][:count]))[0]
            return BUDGET_FACTOR * max(unit, error) + ACCUMULATION

        return {name: budget(name, answer) for name, answer in answers.items()}

    def judge(self, got: dict[str, Tensor], layout: Layout) -> Verdict:
        """Compare tensors in ``layout`` with the reference; every tensor in ``got`` is checked."""
        errors: dict[str, float] = {}
        failures: list[str] = []
        for name, tensor in got.items():
            failure = self._shape_failure(name, tensor, layout)
            if failure is None:
                mine = self._pick(tensor, self._spec(name), layout)
                if "b" not in self._spec(name).axes:
                    mine = mine[:: self.shape.batch]
                mine = self._rows(name, mine)
                errors[name], local = self._errors(mine, self.tensors[name])
                failure = self._failure(name, errors[name], local, mine)
            if failure is not None:
                failures.append(failure)
        worst = max(self.budgets[name] for name in got)
        return Verdict(errors, worst, "; ".join(failures) or None)

    def _shape_failure(self, name: str, tensor: Tensor, layout: Layout) -> str | None:
        spec = self._spec(name)
        expected = spec.shape(self.shape, self._defined.sizes)
        if layout == "bnhd" and spec.turns:
            swapped = {"h": "n", "n": "h"}
            turned = "".join(swapped.get(axis, axis) for axis in spec.axes)
            expected = Spec(turned).shape(self.shape, self._defined.sizes)
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

    def _spec(self, name: str) -> Spec:
        """Of the output, or of the input whose gradient this is."""
        return Spec("bhne") if name == "o" else self._defined.inputs[name.removeprefix("d")]

    def _over_batch(self, name: str, x: Tensor) -> Tensor:
        """As rows; a gradient that sums over the batch, [pairs, ...], as one of each head."""
        if "b" not in self._spec(name).axes:
            x = x.unflatten(0, (-1, self.shape.batch)).sum(1)
        return self._rows(name, x)

    def _rows(self, name: str, x: Tensor) -> Tensor:
        """[pairs, seq_len, columns]; one row where the tensor has no seq_len."""
        return x.reshape(x.shape[0], x.shape[1] if "n" in self._spec(name).axes else 1, -1)

    def _pick(self, tensor: Tensor, spec: Spec, layout: Layout) -> Tensor:
        """The checked pairs, in fp64 where it is a float: [pairs, ...] without the axes b and h."""
        if "b" not in spec.axes:
            views = [tensor[h] for _, h in self.pairs]
        elif layout == "bhnd" or not spec.turns:
            views = [tensor[b, h] for b, h in self.pairs]
        else:
            views = [tensor[b, :, h] for b, h in self.pairs]
        picked = torch.stack(views).detach()
        return picked.double() if picked.is_floating_point() else picked


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
    given = inputs.inputs("bhnd")
    like = [given.v, *([given[name] for name in inputs.gradients] if gradients else [])]
    junk = [torch.full_like(x, math.nan, requires_grad=False) for x in like]
    del junk
    yield
