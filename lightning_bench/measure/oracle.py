"""What is right: results in fp64 of one family on one set of inputs, and how far a provider may be off."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_bench.case import Dtype, Family, Layout, Shape
from lightning_bench.families import Problem, Spec, definition_of
from lightning_bench.families.definition import Definition
from lightning_bench.measure.inputs import InputSet
from lightning_bench.measure.signs import no_signs
from lightning_bench.measure.sketch import Sketch, Sketcher, excess, row_scale
from lightning_bench.providers.dtypes import torch_dtype

# The budget is this many times the error that rounding inputs and outputs alone causes, plus what fp32
# accumulation costs. Within a tile of rows the same error may bunch up, hence the wider local budget.
BUDGET_FACTOR = 2.0
ACCUMULATION = 2e-6
LOCAL_FACTOR = 2.0
ROW_FACTOR = 8.0
# By four projections, the size of an error of many rows appears up to three times too large in one of them.
SKETCH_FACTOR = 12.0
_TILE = 64
# Errors of rounding cancel over a tile; what has the same share everywhere, such as a factor, does not.
BIAS_FACTOR = 1.5

# Half a unit in the last place, relative: the largest error of rounding to nearest.
_ROUNDING: dict[Dtype, float] = {"fp32": 2.0**-24, "fp16": 2.0**-11, "bf16": 2.0**-8}

# Multiply-adds that an oracle may take, so that checking a sample of pairs takes about a second.
_ORACLE_WORK = {"cuda": 4e12, "cpu": 1.5e9}
_MAX_PAIRS = 16
# The same for every pair, whose results are only sketched.
_ALL_WORK = {"cuda": 4e12, "cpu": 1e10}
_SOLVED_AT_ONCE = 16


@dataclass(frozen=True)
class GateResult:
    """Worst relative L2 error per tensor over the checked pairs, the budget, and why it fails (or None)."""

    errors: dict[str, float]
    budget: float
    failure: str | None


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
    count = int(_ORACLE_WORK[shape.device] // _work(shape, defined))
    count = max(2, min(count, _MAX_PAIRS))
    if len(everything) <= count:
        return everything
    middle = random.Random(seed).sample(everything[1:-1], count - 2)
    return [everything[0], *sorted(middle), everything[-1]]


class Reference:
    """fp64 results of one family on one input set, computed once and used for every provider.

    `slack` widens the budgets of single rows, for inputs whose largest values make most rows cancel.
    """

    def __init__(
        self,
        family: Family,
        inputs: InputSet,
        *,
        gradients: bool,
        seed: int,
        every_pair: bool = True,
        slack: float = 1.0,
    ) -> None:
        inputs = inputs.of(family)
        shape = inputs.shape
        self.shape, self._defined = shape, definition_of(family)
        self.sketcher = Sketcher(self._defined, shape, seed)
        self._slack = slack
        self.seed, self.pairs = seed, choose_pairs(shape, family, seed)
        problem = self._problem(inputs, self.pairs)
        solved = solve(family, problem, gradients=gradients)
        self.grad_norm = problem.do.norm(dim=(1, 2))
        self.budgets = self._budgets(family, problem, solved, seed)
        self.tensors = {name: self._over_batch(name, x) for name, x in solved.items()}
        self.least = {name: self._least(x) for name, x in self.tensors.items()}
        self.sketches: dict[str, Sketch] = {}
        if every_pair and self._affordable():
            self._solve_all(family, inputs, solved)

    @property
    def held_bytes(self) -> int:
        """Bytes that the reference keeps on the device."""
        kept = [*self.tensors.values(), *(x for s in self.sketches.values() for x in (s.values, s.norms))]
        return sum(x.numel() * x.element_size() for x in kept)

    @property
    def judged_pairs(self) -> int:
        """How many (batch, head) pairs are judged: in full, or by sketches of their rows."""
        return self.shape.batch * self.shape.heads if self.sketches else len(self.pairs)

    def _problem(self, inputs: InputSet, pairs: Sequence[tuple[int, int]]) -> Problem:
        specs = self._defined.inputs
        given = inputs.inputs("bhnd")
        common = Spec("bhnd")
        q, k, v, do = (_pick(x, common, "bhnd", pairs) for x in (given.q, given.k, given.v, inputs.do))
        decay = torch.stack([inputs.decay[h] for _, h in pairs]).double()
        more = {name: _pick(x, specs[name], "bhnd", pairs) for name, x in given.more.items()}
        return Problem(q, k, v, do, decay, more)

    def _least(self, x: Tensor) -> float:
        """Return the norm below which rows are judged as if they had it.

        It is a thousandth of the root mean square over all rows; of a tensor of zeros, that of do.
        """
        rows = x.square().sum(-1).mean().sqrt().item()
        do = (self.grad_norm.square().mean() / self.shape.seq_len).sqrt().item()
        return 1e-3 * rows if rows > 1e-12 * do else do

    def _affordable(self) -> bool:
        """Whether the oracle can take every pair in about the time of the sample."""
        pairs = self.shape.batch * self.shape.heads
        work = pairs * _work(self.shape, self._defined)
        return pairs == len(self.pairs) or work <= _ALL_WORK[self.shape.device]

    def _solve_all(self, family: Family, inputs: InputSet, solved: dict[str, Tensor]) -> None:
        """Sketch the results of every pair, a few at a time; of the sample they are `solved` already."""
        shape, batches = self.shape, range(self.shape.batch)
        left = [(b, h) for h in range(shape.heads) for b in batches if (b, h) not in set(self.pairs)]
        step = len(batches) * max(1, _SOLVED_AT_ONCE // len(batches))  # whole heads: gradients sum over b
        groups = [left[start : start + step] for start in range(0, len(left), step)]
        for pairs in ([*self.pairs], *groups):
            known = solved if pairs == self.pairs else None
            part = known or solve(family, self._problem(inputs, pairs), gradients=len(solved) > 1)
            for name, x in part.items():
                self._place(name, x, pairs)

    def _place(self, name: str, x: Tensor, pairs: list[tuple[int, int]]) -> None:
        """Put the sketches of results [pairs, ...] where they belong."""
        shape, spec = self.shape, self.sketcher.spec(name)
        batched = "b" in spec.axes
        rows = self._over_batch(name, x)
        values, norms = self.sketcher.project(rows), rows.norm(dim=-1)
        if "n" not in spec.axes:
            values, norms = values.squeeze(1), norms.squeeze(1)
        if name not in self.sketches:
            lead = (shape.batch, shape.heads) if batched else (shape.heads,)
            empty = torch.empty(*lead, *values.shape[1:], dtype=torch.float32, device=x.device)
            self.sketches[name] = Sketch(empty, empty[..., 0].clone())
        sketch = self.sketches[name]
        where = pairs if batched else pairs[:: shape.batch]
        for index, (b, h) in enumerate(where):
            at = (b, h) if batched else (h,)
            sketch.values[at], sketch.norms[at] = values[index].float(), norms[index].float()

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

    def row_scale(self, name: str, norms: Tensor) -> Tensor:
        """Return the error that is allowed in each row of a result with these norms, before its factor."""
        along_n = "n" in self._spec(name).axes
        return row_scale(norms, self.budgets[name], self.least[name], along_n=along_n)

    def judge(self, got: dict[str, Tensor], layout: Layout) -> GateResult:
        """Compare tensors in `layout` with the reference; every tensor in `got` is checked."""
        errors: dict[str, float] = {}
        failures: list[str] = []
        for name, tensor in got.items():
            failure = self._shape_failure(name, tensor, layout)
            if failure is None:
                rows = _pick(tensor, self._spec(name), layout, self.pairs)
                if "b" not in self._spec(name).axes:
                    rows = rows[:: self.shape.batch]
                rows = self._rows(name, rows)
                errors[name], local = self._errors(rows, self.tensors[name])
                failure = (
                    self._failure(name, errors[name], local, rows)
                    or self._row_failure(name, rows)
                    or self._sketch_failure(name, tensor, layout)
                )
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

    def _row_failure(self, name: str, got: Tensor) -> str | None:
        """Judge each row of the sample, and the share by which tiles are longer or shorter."""
        exact, budget = self.tensors[name], self.budgets[name]
        scale = self.row_scale(name, exact.norm(dim=-1))
        ratio = (got - exact).norm(dim=-1) / scale
        if (worst := ratio.max().item()) > ROW_FACTOR * self._slack:
            pair, row = divmod(int(ratio.argmax()), ratio.shape[1])
            return (
                f"{name} is off by {worst * budget:.1e} in row {row} of {self._named(name, pair)}, "
                f"the budget there is {ROW_FACTOR * self._slack * budget:.1e}"
            )
        return self._bias_failure(name, got - exact, exact)

    def _bias_failure(self, name: str, difference: Tensor, exact: Tensor) -> str | None:
        """Judge the share of itself by which each tile is off; rows [pairs, n, columns] or projections."""
        if difference.shape[1] == 1:  # no tile: its one row is judged as such
            return None
        share = _tile_share(difference * exact, exact.square(), self.least[name] ** 2).abs()
        if (worst := share.max().item()) <= BIAS_FACTOR * self.budgets[name]:
            return None
        tile = int(share.argmax()) % share.shape[1]
        return (
            f"{name} is off by {worst:.1e} of itself in rows {_TILE * tile} to {_TILE * tile + _TILE - 1}, "
            f"the budget there is {BIAS_FACTOR * self.budgets[name]:.1e}"
        )

    def _sketch_failure(self, name: str, tensor: Tensor, layout: Layout) -> str | None:
        """Judge every row of every pair by its sketch."""
        if name not in self.sketches:
            bad = int((~torch.isfinite(tensor)).sum())
            return f"{name} has {bad} NaN or Inf" if bad else None
        exact, budget = self.sketches[name], self.budgets[name]
        got = self.sketcher.sketch(name, tensor, layout, no_signs(tensor))
        ratio = excess(got.values - exact.values, self.row_scale(name, exact.norms))
        if (worst := ratio.max().item()) <= SKETCH_FACTOR * self._slack:
            rows = (-1, self.shape.seq_len if "n" in self._spec(name).axes else 1, got.values.shape[-1])
            difference = (got.values - exact.values).reshape(rows)
            return self._bias_failure(name, difference, exact.values.reshape(rows))
        place = torch.unravel_index(ratio.argmax(), ratio.shape)
        axes = [axis for axis in self._spec(name).axes if axis in "bhn"]
        words = {"b": "batch", "h": "head", "n": "row"}
        where = ", ".join(f"{words[axis]} {int(at)}" for axis, at in zip(axes, place, strict=True))
        if math.isinf(worst):
            return f"{name} has NaN or Inf in {where}"
        return (
            f"{name} is off by {worst * budget:.1e} in {where}, "
            f"the budget there is {SKETCH_FACTOR * self._slack * budget:.1e}"
        )

    def _named(self, name: str, pair: int) -> str:
        pairs = self.pairs if "b" in self._spec(name).axes else self.pairs[:: self.shape.batch]
        b, h = pairs[pair]
        return f"batch {b}, head {h}" if "b" in self._spec(name).axes else f"head {h}"

    def _spec(self, name: str) -> Spec:
        """Return the axes of the output, or of the input whose gradient this is."""
        return self.sketcher.spec(name)

    def _over_batch(self, name: str, x: Tensor) -> Tensor:
        """Return rows; of a gradient that sums over the batch, [pairs, ...], one per head."""
        if "b" not in self._spec(name).axes:
            x = x.unflatten(0, (-1, self.shape.batch)).sum(1)
        return self._rows(name, x)

    def _rows(self, name: str, x: Tensor) -> Tensor:
        """Return [pairs, seq_len, columns]; one row if the tensor has no seq_len."""
        return x.reshape(x.shape[0], x.shape[1] if "n" in self._spec(name).axes else 1, -1)


def _pick(tensor: Tensor, spec: Spec, layout: Layout, pairs: Sequence[tuple[int, int]]) -> Tensor:
    """Return these pairs, floats in fp64: [pairs, ...] without the axes b and h."""
    if "b" not in spec.axes:
        views = [tensor[h] for _, h in pairs]
    elif layout == "bhnd" or not spec.turns:
        views = [tensor[b, h] for b, h in pairs]
    else:
        views = [tensor[b, :, h] for b, h in pairs]
    picked = torch.stack(views).detach()
    return picked.double() if picked.is_floating_point() else picked


def _tile_share(part: Tensor, whole: Tensor, least: float) -> Tensor:
    """Return sums of `part` over those of `whole` by tiles of rows, [pairs, tiles].

    It is 0 in tiles that are weak: below `least`, or below a hundredth of the mean of their pair.
    """
    sums = [
        torch.nn.functional.pad(x.sum(-1), (0, -x.shape[1] % _TILE)).unflatten(1, (-1, _TILE)).sum(-1)
        for x in (part, whole)
    ]
    strong = sums[1] > (0.01 * sums[1].mean(dim=1, keepdim=True)).clamp_min(least)
    return torch.where(strong, sums[0] / sums[1].clamp_min(least), 0.0)


def _work(shape: Shape, defined: Definition) -> float:
    """Return about how many multiply-adds the oracle takes for one pair, forward and backward."""
    return 7.0 * shape.seq_len * defined.span(shape) * (shape.head_dim + shape.value_dim)
