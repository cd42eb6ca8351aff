"""The correctness gate: nothing is timed that does not agree with fp64 on the inputs that are timed."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_bench.case import Case, Dtype, Family, Layout, Shape
from lightning_bench.families import Problem, Spec, definition_of
from lightning_bench.measure.calls import DirectionCall, direction_call
from lightning_bench.measure.inputs import InputSet
from lightning_bench.measure.job import CaseEnded, Enter, Figures
from lightning_bench.providers.dtypes import torch_dtype
from lightning_bench.providers.registry.base import Provider

TENSORS = ("o", "dq", "dk", "dv")
"""The tensors with an error column of their own; gradients of all other inputs share `error_dgate`."""

# The budget is this many times the error that rounding inputs and outputs alone causes, plus what fp32
# accumulation costs. Within a tile of rows the same error may bunch up, hence the wider local budget.
BUDGET_FACTOR = 2.0
ACCUMULATION = 2e-6
LOCAL_FACTOR = 4.0
_TILE = 64

# Half a unit in the last place, relative: the largest error of rounding to nearest.
_ROUNDING: dict[Dtype, float] = {"fp32": 2.0**-24, "fp16": 2.0**-11, "bf16": 2.0**-8}

# Multiply-adds that an oracle may take, so that checking a sample of pairs takes about a second.
_ORACLE_WORK = {"cuda": 4e12, "cpu": 1.5e9}
_MAX_PAIRS = 16


@dataclass(frozen=True)
class GateResult:
    """Worst relative L2 error per tensor over the checked pairs, the budget, and why it fails (or None)."""

    errors: dict[str, float]
    budget: float
    failure: str | None


@dataclass(frozen=True)
class Gated:
    """A case that has passed: its call, and the figures that its row has so far."""

    case: Case
    provider: Provider
    call: DirectionCall
    figures: Figures


class InputsChangedError(CaseEnded):
    """A provider has written to its inputs: the case is wrong, and the inputs must be drawn again."""


def pass_gate(case: Case, provider: Provider, common: InputSet, reference: Reference, enter: Enter) -> Gated:
    """Build the call of a case, run it once and compare its results with fp64.

    Raises CaseEnded with status `wrong` if they differ by more than the budget, have another dtype or shape,
    or if the call has changed its inputs (then InputsChangedError).
    """
    enter(case.id, "warm-up")
    inputs = common.of(provider.family)
    before = inputs.checksums(provider.layout)
    with poisoned(inputs, gradients=case.direction != "fwd"):
        call = direction_call(provider, common, case.direction)
        got = call.tensors()
    after = inputs.checksums(provider.layout)
    enter(case.id, "check")
    if changed := [name for name, total in after.items() if total != before[name]]:
        raise InputsChangedError("wrong", f"it changes its inputs: {', '.join(changed)}")
    dtype = torch_dtype(case.shape.dtype)
    given = inputs.inputs(provider.layout)
    wanted = {"o": dtype, **{f"d{name}": given[name].dtype for name in inputs.gradients}}
    if odd := [f"{name} is {x.dtype}" for name, x in got.items() if x.dtype != wanted[name]]:
        raise CaseEnded("wrong", f"{', '.join(odd)}, not {dtype}")
    result = reference.judge(got, provider.layout)
    errors = result.errors
    figures = Figures(
        provider_config=provider.config(case.shape, case.direction),
        error_o=errors.get("o"),
        error_dq=errors.get("dq"),
        error_dk=errors.get("dk"),
        error_dv=errors.get("dv"),
        error_dgate=max((error for name, error in errors.items() if name not in TENSORS), default=None),
        error_budget=result.budget,
    )
    if result.failure:
        raise CaseEnded("wrong", result.failure, figures)
    return Gated(case, provider, call, figures)


def solve(
    family: Family, problem: Problem, *, gradients: bool, output_dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    """Return the output `o` and, if asked for, the gradient `dNAME` of each input that has one, in fp64.

    Each family's definition in `lightning_bench.families` has its oracle: written from the definition, in
    blocks so that long sequences fit, and independently of every provider, the bundled kernels included.
    `linear_decay` and `linear` are unscaled; `softmax` is causal with scale 1/√head_dim; the equations of
    the others give their scale. With an `output_dtype` every result is rounded to it (gradients of fp32
    inputs to fp32), and so is the o that the softmax gradients start from.
    """
    defined = definition_of(family)
    tensors = defined.solve(problem, gradients=gradients, output_dtype=output_dtype)

    def rounded(name: str, x: Tensor) -> Tensor:
        fp32 = name != "o" and defined.inputs[name.removeprefix("d")].dtype == "fp32"
        to = torch.float32 if fp32 and output_dtype != torch.float64 else output_dtype
        return x.to(to).double()

    return {name: rounded(name, x) for name, x in tensors.items()}


def choose_pairs(shape: Shape, family: Family, seed: int) -> list[tuple[int, int]]:
    """Return the (batch, head) pairs to check in full: always the first and the last, both ends of the decay.

    If a gradient sums over the batch, they are all sequences of the first and the last head.
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
        """Return BUDGET_FACTOR × the error of the same computation with inputs and outputs rounded.

        It is taken over one pair, because pairs hardly differ, except on short sequences, where they do.
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
        dtype = torch_dtype(self.shape.dtype)
        answers = solve(family, first.replaced(moved), gradients=len(solved) > 1, output_dtype=dtype)

        def budget(name: str, answer: Tensor) -> float:
            error = self._errors(self._rows(name, answer), self._rows(name, solved[name][:count]))[0]
            return BUDGET_FACTOR * max(unit, error) + ACCUMULATION

        return {name: budget(name, answer) for name, answer in answers.items()}

    def judge(self, got: dict[str, Tensor], layout: Layout) -> GateResult:
        """Compare tensors in `layout` with the reference; every tensor in `got` is checked."""
        errors: dict[str, float] = {}
        failures: list[str] = []
        for name, tensor in got.items():
            failure = self._shape_failure(name, tensor, layout)
            if failure is None:
                rows = self._pick(tensor, self._spec(name), layout)
                if "b" not in self._spec(name).axes:
                    rows = rows[:: self.shape.batch]
                rows = self._rows(name, rows)
                errors[name], local = self._errors(rows, self.tensors[name])
                failure = self._failure(name, errors[name], local, rows)
            if failure is not None:
                failures.append(failure)
        worst = max(self.budgets[name] for name in got)
        return GateResult(errors, worst, "; ".join(failures) or None)

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
        """Return (worst relative L2 error over pairs, worst over tiles of rows)."""
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
        """Return the axes of the output, or of the input whose gradient this is."""
        return Spec("bhne") if name == "o" else self._defined.inputs[name.removeprefix("d")]

    def _over_batch(self, name: str, x: Tensor) -> Tensor:
        """Return rows; of a gradient that sums over the batch, [pairs, ...], one per head."""
        if "b" not in self._spec(name).axes:
            x = x.unflatten(0, (-1, self.shape.batch)).sum(1)
        return self._rows(name, x)

    def _rows(self, name: str, x: Tensor) -> Tensor:
        """Return [pairs, seq_len, columns]; one row if the tensor has no seq_len."""
        return x.reshape(x.shape[0], x.shape[1] if "n" in self._spec(name).axes else 1, -1)

    def _pick(self, tensor: Tensor, spec: Spec, layout: Layout) -> Tensor:
        """Return the checked pairs, floats in fp64: [pairs, ...] without the axes b and h."""
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
    """Reveal rows that are never written: memory of new outputs holds NaN, not an earlier right answer.

    A GPU's allocator reuses the blocks that are filled and freed here. A CPU's promises no such order, so
    torch itself fills all uninitialized memory there.
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
