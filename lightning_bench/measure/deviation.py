"""The judge: how far results are off the reference, by five measures, each against its own budget."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lightning_bench.case import Layout
from lightning_bench.measure.oracle import Reference, relative_error, relative_norms
from lightning_bench.measure.signs import no_signs
from lightning_bench.measure.sketch import excess

Measure = Literal["whole", "tile", "row", "share", "sketch"]

# Each factor is of the budget of the whole. Within a tile of rows the same error may bunch up.
_TILE = 64
TILE_FACTOR = 2.0
ROW_FACTOR = 8.0
# By four projections, the size of an error of many rows appears up to three times too large in one of them.
SKETCH_FACTOR = 12.0
# Errors of rounding cancel over a tile; what has the same share everywhere, such as a factor, does not.
SHARE_FACTOR = 1.5
# A result that is off by more is compared with multiples of the right one: a scale may be missing.
_SCALED = 0.1
# So many pairs are settled by fp64 before a second implementation is no longer asked.
_SETTLED = 16


@dataclass(frozen=True)
class Deviation:
    """How far one result is off by one measure, where that is most, and how far it may be; both relative."""

    name: str
    measure: Measure
    size: float
    budget: float
    where: str

    @property
    def ratio(self) -> float:
        """How much of the budget is used up: right is 1 at most."""
        return self.size / self.budget

    @property
    def text(self) -> str:
        """Return the reason that a row gives if this is too far."""
        there = "" if self.measure == "whole" else " there"
        return f"{self.name} is off by {self.size:.1e} {self.where}, the budget{there} is {self.budget:.1e}"


@dataclass(frozen=True)
class GateResult:
    """Worst relative L2 error per tensor over the checked pairs, the largest budget, and why it fails.

    `failure` is None if all is right. `deviations` has every measure of every result that has its shape and
    is finite.
    """

    errors: dict[str, float]
    budget: float
    failure: str | None
    deviations: tuple[Deviation, ...]


def judge(reference: Reference, got: dict[str, Tensor], layout: Layout) -> GateResult:
    """Compare results in `layout` with the reference; every tensor in `got` is judged."""
    errors: dict[str, float] = {}
    deviations: list[Deviation] = []
    failures: list[str] = []
    for name, tensor in got.items():
        if reason := _shape_failure(reference, name, tensor, layout):
            failures.append(reason)
        elif reason := _not_finite(reference, name, tensor):
            failures.append(reason)
            errors[name] = math.nan
        else:
            found = _deviations(reference, name, tensor, layout)
            errors[name] = next(deviation.size for deviation in found if deviation.measure == "whole")
            failures += [deviation.text for deviation in found if not deviation.ratio <= 1.0][:1]
            deviations += found
    budget = max(reference.budgets[name] for name in got)
    return GateResult(errors, budget, "; ".join(failures) or None, tuple(deviations))


def wrong_shape(
    name: str, got: tuple[int, ...], wanted: tuple[int, ...], other: tuple[int, ...], layout: Layout
) -> str | None:
    """Return in what a shape is not the one wanted, or None; the other layout has the shape `other`."""
    if got == wanted:
        return None
    hint = (
        f": that is layout {other_layout(layout)}, and {layout} is asked for (--layout)"
        if got == other
        else ""
    )
    return f"{name} has shape {got}, not {wanted}{hint}"


def other_layout(layout: Layout) -> Layout:
    """Return the layout that exchanges heads and seq_len."""
    return "bnhd" if layout == "bhnd" else "bhnd"


def _shape_failure(reference: Reference, name: str, tensor: Tensor, layout: Layout) -> str | None:
    wanted, other = (reference.expected_shape(name, each) for each in (layout, other_layout(layout)))
    return wrong_shape(name, tuple(tensor.shape), wanted, other, layout)


def _not_finite(reference: Reference, name: str, tensor: Tensor) -> str | None:
    finite = torch.isfinite(tensor)
    if bool(finite.all()):
        return None
    lead = sum(axis in "bhnr" for axis in reference.spec(name).axes)
    rows = finite.flatten(lead).all(-1) if finite.dim() > lead else finite
    return f"{name} has NaN or Inf in {int((~rows).sum())} of {rows.numel()} rows"


def _deviations(reference: Reference, name: str, tensor: Tensor, layout: Layout) -> list[Deviation]:
    found = in_sample(reference, name, reference.picked(name, tensor, layout))
    if name in reference.sketches:
        got = reference.sketcher.sketch(name, tensor, layout, no_signs(tensor))
        found += _sketches(reference, name, got.values)
    return found


def in_sample(reference: Reference, name: str, got: Tensor) -> list[Deviation]:
    """Judge the rows of the pairs of the sample, as `Reference.tensors` has them."""
    exact = reference.tensors[name]
    return [
        _whole(reference, name, got),
        _tile(reference, name, got),
        _row(reference, name, got),
        *_share(reference, name, got - exact, exact),
    ]


def _whole(reference: Reference, name: str, got: Tensor) -> Deviation:
    """Judge the relative L2 error, the worst over the pairs of the sample."""
    exact, budget = reference.tensors[name], reference.budgets[name]
    error = relative_error(got, exact, reference.grad_norm).max().item()
    hint = " (what TF32 or bf16 gives)" if reference.shape.dtype == "fp32" and 5e-5 < error < 5e-3 else ""
    factor = ((got * exact).sum() / exact.square().sum()).item() if error > _SCALED else 1.0
    if abs(factor - 1.0) > _SCALED and factor != 0.0:
        rest = relative_error(got / factor, exact, reference.grad_norm).max().item()
        hint = f" ({factor:.4g} times what is right: a scale?)" if rest <= budget else hint
    return Deviation(name, "whole", error, budget, f"relative L2{hint}")


def _tile(reference: Reference, name: str, got: Tensor) -> Deviation:
    """Judge each tile of rows by its own norm, or by a typical one's if that is larger."""
    exact = reference.tensors[name]
    off, of = (_over_tiles(x.square().sum(-1)).sqrt() for x in (got - exact, exact))
    rows = torch.full_like(of, float(_TILE))
    rows[:, -1] -= -exact.shape[1] % _TILE
    typical = relative_norms(exact, reference.grad_norm)[:, None] * (rows / exact.shape[1]).sqrt()
    error = (off / torch.maximum(of, typical)).max().item()
    budget = TILE_FACTOR * reference.budgets[name]
    return Deviation(name, "tile", error, budget, f"in one tile of {_TILE} rows")


def _row(reference: Reference, name: str, got: Tensor) -> Deviation:
    """Judge each row of the sample."""
    exact, budget = reference.tensors[name], reference.budgets[name]
    ratio = (got - exact).norm(dim=-1) / reference.row_scale(name, exact.norm(dim=-1))
    pair, row = divmod(int(ratio.argmax()), ratio.shape[1])
    of = reference.named_pair(name, pair)
    allowed = ROW_FACTOR * reference.slack.rows * budget
    return Deviation(name, "row", ratio.max().item() * budget, allowed, f"in row {row} of {of}")


def _share(reference: Reference, name: str, difference: Tensor, exact: Tensor) -> list[Deviation]:
    """Judge the share of itself by which each tile of rows [pairs, n, columns] is off."""
    if difference.shape[1] == 1:  # no tile: its one row is judged as such
        return []
    shares = _shares(reference, name, difference, exact)
    where = _rows_of_tile(int(shares.argmax()) % shares.shape[1])
    allowed = SHARE_FACTOR * reference.slack.rows * reference.budgets[name]
    return [Deviation(name, "share", shares.max().item(), allowed, where)]


def _rows_of_tile(tile: int) -> str:
    return f"of itself in rows {_TILE * tile} to {_TILE * (tile + 1) - 1}"


def _shares(reference: Reference, name: str, difference: Tensor, exact: Tensor) -> Tensor:
    """Return the share of itself by which each tile of rows or projections [pairs, n, columns] is off."""
    part, whole = (_over_tiles(x.sum(-1)) for x in (difference * exact, exact.square()))
    least = _TILE * reference.least[name] ** 2
    # Tiles that are much weaker than others of their pair hold what is left when larger terms cancel.
    strong = whole > (0.01 * whole.mean(dim=1, keepdim=True)).clamp_min(least)
    return torch.where(strong, part / whole.clamp_min(least), 0.0).abs()


def _sketches(reference: Reference, name: str, got: Tensor) -> list[Deviation]:
    """Judge every row of every pair by its sketch, and the share of itself by which each tile is off.

    Where that is too far from a second implementation, fp64 decides. If it decides against the second
    implementation again and again, that judges no more.
    """
    for _ in range(_SETTLED):
        found = _by_sketches(reference, name, got)
        doubtful = [at for each, at in found if not each.ratio <= 1.0 and reference.known[at] != 1.0]
        if not doubtful:
            return [each for each, _ in found]
        reference.settle(*doubtful[0])
    reference.withdraw_second()
    return [each for each, _ in _by_sketches(reference, name, got)]


def _by_sketches(reference: Reference, name: str, got: Tensor) -> list[tuple[Deviation, tuple[int, int]]]:
    """Return the deviations by sketches, each in the pair (batch, head) with the largest for its budget.

    The head is one of q: of those that share a head of k and v, the first.
    """
    spec, exact, budget = reference.spec(name), reference.sketches[name], reference.budgets[name]
    difference = got - exact.values
    along_n, known = spec.has_rows, reference.known_of(name)
    rows = excess(difference, reference.row_scale(name, exact.norms)).reshape(*known.shape, -1)
    kinds: list[tuple[Measure, Tensor, float]] = [("sketch", rows, SKETCH_FACTOR)]
    if rows.shape[-1] > 1:
        flat = (known.numel(), rows.shape[-1], got.shape[-1])
        shares = _shares(reference, name, difference.reshape(flat), exact.values.reshape(flat))
        kinds.append(("share", shares.reshape(*known.shape, -1) / budget, SHARE_FACTOR))
    found = []
    for measure, sizes, factor in kinds:
        b, h = divmod(int((sizes.amax(-1) / known).argmax()), known.shape[1])
        at = int(sizes[b, h].argmax())
        words = reference.words_of(name, b, h)
        place = f"in {words}, row {at}" if along_n else f"in {words}"
        where = place if measure == "sketch" else f"{_rows_of_tile(at)} of {words}"
        allowed = float(known[b, h]) * factor * reference.slack.rows * budget
        first = h * reference.shape.group if spec.of_kv else h
        found.append((Deviation(name, measure, float(sizes[b, h, at]) * budget, allowed, where), (b, first)))
    return found


def _over_tiles(x: Tensor) -> Tensor:
    """Return the sums over tiles of rows, [pairs, tiles], of x [pairs, n]."""
    sums: Tensor = torch.nn.functional.pad(x, (0, -x.shape[1] % _TILE)).unflatten(1, (-1, _TILE)).sum(-1)
    return sums
