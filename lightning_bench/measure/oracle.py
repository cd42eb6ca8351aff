"""What is right: results in fp64 of one family on one set of inputs, and how far a provider may be off."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lightning_bench.case import Distribution, Dtype, Family, Layout, Shape
from lightning_bench.families import QKV, Problem, Spec, definition_of
from lightning_bench.families.definition import Definition
from lightning_bench.families.packed import solve_packed
from lightning_bench.measure.inputs import InputSet
from lightning_bench.measure.sketch import Sketch, Sketcher, row_scale
from lightning_bench.providers.dtypes import torch_dtype

# The budget is this many times the error that rounding inputs, outputs and softmax's exponents alone causes,
# plus what fp32 accumulation costs.
BUDGET_FACTOR = 2.0
ACCUMULATION = 2e-6

# Half a unit in the last place, relative: the largest error of rounding to nearest.
_ROUNDING: dict[Dtype, float] = {"fp32": 2.0**-24, "fp16": 2.0**-11, "bf16": 2.0**-8}

# Multiply-adds that an oracle may take, so that checking a sample of pairs takes about a second.
_ORACLE_WORK = {"cuda": 4e12, "cpu": 1.5e9}
_MAX_PAIRS = 16
# The same for every pair, whose results are only sketched.
_ALL_WORK = {"cuda": 4e12, "cpu": 1e10}
_SOLVED_AT_ONCE = 16
_BY_SECOND = 2.0

Solver = Callable[[Problem], dict[str, Tensor]]
# Half of the smallest step of a dtype whose subnormal numbers gradients reach.
_LEAST_STEP: dict[Dtype, float] = {"fp32": 0.0, "fp16": 2.0**-25, "bf16": 0.0}


@dataclass(frozen=True)
class Slack:
    """Factors of what rounding to the dtype and accumulation in fp32 may cost; `rows`, in rows and tiles."""

    rounding: float = 1.0
    accumulation: float = 1.0
    rows: float = 1.0


# On other inputs than normal ones rounding hardly averages: a few rows and scores decide. With outliers
# softmax is all but one-hot, so the gradients of most rows are differences of nearly equal terms. How much of
# these budgets honest providers need is what benchmarks/gate_margins.py measures.
_SLACK: dict[Distribution, Slack] = {
    "normal": Slack(),
    "small": Slack(rounding=2.0),
    "large": Slack(rounding=2.0, accumulation=8.0, rows=4.0),
    "outliers": Slack(rounding=4.0, accumulation=8.0, rows=4.0),
}


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
    tensors = solve_packed(defined, problem, gradients=gradients, output_dtype=output_dtype)

    def rounded(name: str, x: Tensor) -> Tensor:
        fp32 = name != "o" and defined.inputs[name.removeprefix("d")].dtype == "fp32"
        to = torch.float32 if fp32 and output_dtype != torch.float64 else output_dtype
        return x.to(to).double()

    return {name: rounded(name, x) for name, x in tensors.items()}


def solve_rounded(
    family: Family, problem: Problem, dtype: Dtype, seed: int, *, gradients: bool
) -> dict[str, Tensor]:
    """Return what `solve` does if inputs and results are rounded to a dtype: as far off may a provider be."""
    generator = torch.Generator(device=problem.q.device).manual_seed(seed)
    specs = definition_of(family).inputs

    def rounded(x: Tensor, error: float) -> Tensor:
        noise = torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        # Uniform within half a unit in the last place, whose relative size varies by two.
        return x * (1.0 + error * 0.72 * (2.0 * noise - 1.0))

    moved = {name: rounded(problem[name], _ROUNDING[dtype]) for name in ("q", "k", "v", "do")}
    for name, x in problem.more.items():
        wanted = specs[name].dtype
        if wanted != "int64":
            moved[name] = rounded(x, _ROUNDING[wanted or dtype])
    return solve(family, problem.replaced(moved), gradients=gradients, output_dtype=torch_dtype(dtype))


def allowed_error(rounded: float, dtype: Dtype, slack: Slack) -> float:
    """Return how far off a result of a dtype may be, given how far off rounding alone makes it; relative."""
    rounding = slack.rounding * BUDGET_FACTOR * max(_ROUNDING[dtype], rounded)
    return rounding + slack.accumulation * ACCUMULATION


def pairs_in_time(shape: Shape, family: Family) -> int:
    """Return how many (batch, head) pairs are compared in full in about a second: from 2 to 16."""
    count = int(_ORACLE_WORK[shape.device] // pair_work(shape, definition_of(family)))
    return max(2, min(count, _MAX_PAIRS))


def choose_pairs(shape: Shape, family: Family, seed: int) -> list[tuple[int, int]]:
    """Return the (batch, head) pairs to check in full: always the first and the last, both ends of the decay.

    If a gradient sums over the batch, they are all sequences of the first and the last head. Heads that share
    one of k and v are all there or none, since its gradients sum over them.
    """
    defined = definition_of(family)
    if defined.whole_heads:
        heads = dict.fromkeys((0, shape.heads - 1))
        return [(b, h) for h in heads for b in range(shape.batch)]
    everything = [(b, h) for b in range(shape.batch) for h in range(0, shape.heads, shape.group)]
    count = max(2, pairs_in_time(shape, family) // shape.group)
    if len(everything) > count:
        middle = random.Random(seed).sample(everything[1:-1], count - 2)
        everything = [everything[0], *sorted(middle), everything[-1]]
    return [(b, h + i) for b, h in everything for i in range(shape.group)]


class Reference:
    """fp64 results of one family on one input set, computed once and used for every provider.

    `budgets` are relative L2 errors that each result may have; `least` is the norm below which its rows are
    judged as if they had it. `sketches` has every pair or none. `known` says how, [b, h]: 1 in fp64, 2 by a
    second implementation, so that results may be twice as far off, infinite if it turned out not to be good.
    """

    def __init__(
        self,
        family: Family,
        inputs: InputSet,
        *,
        gradients: bool,
        seed: int,
        every_pair: bool = True,
    ) -> None:
        inputs = inputs.of(family)
        shape = inputs.shape
        self.shape, self._defined = shape, definition_of(family)
        self.sketcher = Sketcher(self._defined, shape, seed)
        self._family, self._inputs = family, inputs
        self.seed, self.pairs = seed, choose_pairs(shape, family, seed)
        problem = self._problem(self.pairs)
        solved = solve(family, problem, gradients=gradients)
        self.grad_norm = problem.do.norm(dim=(1, 2))
        self.slack = _SLACK[inputs.distribution]
        self.budgets = self._budgets(family, problem, solved, seed)
        self.tensors = {name: self._summed(name, x) for name, x in solved.items()}
        self.least = {name: self._least(name, x) for name, x in self.tensors.items()}
        self.sketches: dict[str, Sketch] = {}
        self.known = torch.ones(shape.batch, shape.heads, device=shape.device)
        if every_pair and self._affordable():
            self._fill(self._exactly)

    @property
    def held_bytes(self) -> int:
        """Bytes that the reference keeps on the device."""
        kept = [*self.tensors.values(), *(x for s in self.sketches.values() for x in (s.values, s.norms))]
        return sum(x.numel() * x.element_size() for x in kept)

    @property
    def judged_pairs(self) -> int:
        """How many (batch, head) pairs are judged: in full, or by sketches of their rows."""
        return int(self.known.isfinite().sum()) if self.sketches else len(self.pairs)

    @property
    def judged_by_second(self) -> int:
        """How many of them are judged against a second implementation."""
        return int((self.known == _BY_SECOND).sum()) if self.sketches else 0

    def _problem(self, pairs: Sequence[tuple[int, int]], *, exact: bool = True) -> Problem:
        """Return the inputs of these pairs, in fp64 if `exact`, else in their own dtypes."""
        inputs, specs, group = self._inputs, self._defined.inputs, self.shape.group
        given = inputs.inputs("bhnd")
        of_kv = [(b, h // group) for b, h in pairs]

        def pick(x: Tensor, spec: Spec) -> Tensor:
            picked = _pick(x, spec, "bhnd", of_kv if spec.of_kv else pairs)
            return picked.double() if exact and picked.is_floating_point() else picked

        q, k, v = (pick(given[name], spec) for name, spec in QKV.items())
        do = pick(inputs.do, QKV["q"])
        decay = torch.stack([inputs.decay[h] for _, h in pairs]).double()
        more = {name: pick(x, specs[name]) for name, x in given.more.items()}
        return Problem(q, k, v, do, decay, more, self.shape.variant.documents)

    def _least(self, name: str, x: Tensor) -> float:
        """Return a thousandth of the root mean square over all rows; of a tensor of zeros, that of do.

        It is no less than what makes the budget of a row a step of the dtype in each column.
        """
        rows = x.square().sum(-1).mean().sqrt().item()
        do = (self.grad_norm.square().mean() / self.shape.seq_len).sqrt().item()
        steps = _LEAST_STEP[self.shape.dtype] * math.sqrt(x.shape[-1]) / self.budgets[name]
        return max(1e-3 * rows if rows > 1e-12 * do else do, steps)

    def _affordable(self) -> bool:
        """Whether the oracle can take every pair in about the time of the sample."""
        pairs = self.shape.batch * self.shape.heads
        work = pairs * pair_work(self.shape, self._defined)
        return pairs == len(self.pairs) or work <= _ALL_WORK[self.shape.device]

    def _exactly(self, pairs: list[tuple[int, int]]) -> dict[str, Tensor]:
        """Return the rows of fp64 results of these pairs."""
        solved = solve(self._family, self._problem(pairs), gradients=len(self.tensors) > 1)
        return {name: self._summed(name, x) for name, x in solved.items()}

    def by_second(self, solver: Solver, pairs: list[tuple[int, int]]) -> dict[str, Tensor]:
        """Return the rows of what a second implementation gives for these pairs, in fp32."""
        solved = solver(self._problem(pairs, exact=False))
        return {name: self._summed(name, x.float()) for name, x in solved.items()}

    def fill_by_second(self, solver: Solver) -> None:
        """Sketch every pair outside of the sample by a second implementation."""
        self.known.fill_(_BY_SECOND)
        for b, h in self.pairs:
            self.known[b, h] = 1.0
        self._fill(lambda pairs: self.by_second(solver, pairs))

    def withdraw_second(self) -> None:
        """Judge no pair by the second implementation any more."""
        self.known[self.known == _BY_SECOND] = math.inf

    def settle(self, b: int, h: int) -> None:
        """Have fp64 say what is right for a pair that a second implementation has judged."""
        first = h - h % self.shape.group
        pairs = [(b, first + i) for i in range(self.shape.group)]
        if self._defined.whole_heads:
            pairs = [(every, h) for every in range(self.shape.batch)]
        for name, x in self._exactly(pairs).items():
            self._place(name, x, pairs)
        for at in pairs:
            self.known[at] = 1.0

    def _fill(self, rows_of: Callable[[list[tuple[int, int]]], dict[str, Tensor]]) -> None:
        """Sketch the results of every pair, a few at a time; those of the sample are there already."""
        for name, x in self.tensors.items():
            self._place(name, x, self.pairs)
        shape, sample = self.shape, set(self.pairs)
        firsts = [(b, h) for h in range(0, shape.heads, shape.group) for b in range(shape.batch)]
        left = [(b, h + i) for b, h in firsts if (b, h) not in sample for i in range(shape.group)]
        whole = shape.batch * shape.group  # what a gradient sums over
        step = whole * max(1, _SOLVED_AT_ONCE // whole)
        for start in range(0, len(left), step):
            pairs = left[start : start + step]
            for name, x in rows_of(pairs).items():
                self._place(name, x, pairs)

    def _place(self, name: str, rows: Tensor, pairs: list[tuple[int, int]]) -> None:
        """Put the sketches of the rows of these pairs, or of their heads, where they belong."""
        shape, spec = self.shape, self.sketcher.spec(name)
        batched = "b" in spec.axes
        values, norms = self.sketcher.project(rows), rows.norm(dim=-1)
        if not spec.has_rows:
            values, norms = values.squeeze(1), norms.squeeze(1)
        if name not in self.sketches:
            heads = shape.kv_heads if spec.of_kv else shape.heads
            lead = (shape.batch, heads) if batched else (heads,)
            empty = torch.empty(*lead, *values.shape[1:], dtype=torch.float32, device=rows.device)
            self.sketches[name] = Sketch(empty, empty[..., 0].clone())
        sketch = self.sketches[name]
        for index, (b, h) in enumerate(self._places(name, pairs)):
            at = (b, h) if batched else (h,)
            sketch.values[at], sketch.norms[at] = values[index].float(), norms[index].float()

    def _budgets(
        self, family: Family, problem: Problem, solved: dict[str, Tensor], seed: int
    ) -> dict[str, float]:
        """Return BUDGET_FACTOR × the error of the same computation with inputs and outputs rounded.

        It is taken over one pair, because pairs hardly differ, except on short sequences, where they do.
        """
        count = len(self.pairs) if self.shape.seq_len <= 1024 else self.shape.group
        first = problem.part(slice(count))
        answers = solve_rounded(family, first, self.shape.dtype, seed + 1, gradients=len(solved) > 1)

        def budget(name: str, answer: Tensor) -> float:
            exact = self._rows(name, self._over_group(name, solved[name][:count]))
            got = self._rows(name, self._over_group(name, answer))
            error = relative_error(got, exact, self.grad_norm[:count]).max().item()
            return allowed_error(
                error, "fp32" if name in self._defined.updates else self.shape.dtype, self.slack
            )

        return {name: budget(name, answer) for name, answer in answers.items()}

    def row_scale(self, name: str, norms: Tensor) -> Tensor:
        """Return the error that is allowed in each row of a result with these norms, before its factor."""
        along_n = self.spec(name).has_rows
        return row_scale(norms, self.budgets[name], self.least[name], along_n=along_n)

    def expected_shape(self, name: str, layout: Layout) -> tuple[int, ...]:
        """Return the shape that a result has in a layout."""
        spec = self.spec(name)
        if layout == "bnhd" and spec.turns:
            swapped = {"h": "n", "n": "h"}
            spec = replace(spec, axes="".join(swapped.get(axis, axis) for axis in spec.axes))
        return spec.shape(self.shape, self._defined.sizes)

    def picked(self, name: str, tensor: Tensor, layout: Layout) -> Tensor:
        """Return the rows of the checked pairs of a result, in fp64, as `tensors` has them."""
        return self._rows(
            name, _pick(tensor, self.spec(name), layout, self._places(name, self.pairs)).double()
        )

    def named_pair(self, name: str, index: int) -> str:
        """Return in words which pair, or head, is at this place of `tensors`."""
        return self.words_of(name, *self._places(name, self.pairs)[index])

    def words_of(self, name: str, b: int, h: int) -> str:
        """Return in words a pair of the heads that a result has, or the head if it sums over the batch."""
        spec = self.spec(name)
        head = f"{'kv head' if spec.of_kv and self.shape.group > 1 else 'head'} {h}"
        return f"batch {b}, {head}" if "b" in spec.axes else head

    def known_of(self, name: str) -> Tensor:
        """Return `known` for the heads that a result has, [b, h], or [1, h] if it sums over the batch."""
        spec = self.spec(name)
        known = self.known if "b" in spec.axes else self.known.amax(0, keepdim=True)
        return known.unflatten(1, (-1, self.shape.group)).amax(-1) if spec.of_kv else known

    def spec(self, name: str) -> Spec:
        """Return the axes of the output, or of the input whose gradient this is."""
        return self.sketcher.spec(name)

    def _places(self, name: str, pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Return the pairs of the heads that a result has, for pairs of q: one for those that it sums."""
        spec, group = self.spec(name), self.shape.group
        if "b" not in spec.axes:
            pairs = pairs[:: self.shape.batch]
        return [(b, h // group) for b, h in pairs[::group]] if spec.of_kv else list(pairs)

    def _summed(self, name: str, x: Tensor) -> Tensor:
        """Return rows; of a gradient that sums over the batch or over heads, one for those that it sums."""
        if "b" not in self.spec(name).axes:
            x = x.unflatten(0, (-1, self.shape.batch)).sum(1)
        return self._rows(name, self._over_group(name, x))

    def _over_group(self, name: str, x: Tensor) -> Tensor:
        """Return the sum over heads that share one of k and v, if it is of a gradient of these."""
        return x.unflatten(0, (-1, self.shape.group)).sum(1) if self.spec(name).of_kv else x

    def _rows(self, name: str, x: Tensor) -> Tensor:
        """Return [pairs, seq_len, columns]; one row if the tensor has no seq_len."""
        return x.reshape(x.shape[0], x.shape[1] if self.spec(name).has_rows else 1, -1)


def relative_norms(exact: Tensor, do_norms: Tensor) -> Tensor:
    """Return the norms [pairs] that errors of results [pairs, n, columns] are relative to.

    A tensor that is exactly zero (softmax, seq_len 1: dq and dk) is judged against do instead.
    """
    norms, do_norms = exact.norm(dim=(1, 2)), do_norms[: len(exact)]
    return torch.where(norms > 1e-12 * do_norms, norms, do_norms)


def relative_error(got: Tensor, exact: Tensor, do_norms: Tensor) -> Tensor:
    """Return the relative L2 errors [pairs] of results [pairs, n, columns]."""
    error: Tensor = (got - exact).norm(dim=(1, 2)) / relative_norms(exact, do_norms)
    return error


def _pick(tensor: Tensor, spec: Spec, layout: Layout, pairs: Sequence[tuple[int, int]]) -> Tensor:
    """Return these pairs: [pairs, ...] without the axes b and h."""
    if "b" not in spec.axes:
        views = [tensor[h] for _, h in pairs]
    elif layout == "bhnd" or not spec.turns:
        views = [tensor[b, h] for b, h in pairs]
    else:
        views = [tensor[b, :, h] for b, h in pairs]
    return torch.stack(views).detach()


def pair_work(shape: Shape, defined: Definition) -> float:
    """Return about how many multiply-adds the oracle takes for one pair, forward and backward."""
    return 7.0 * shape.seq_len * defined.span(shape) * (shape.head_dim + shape.value_dim)
