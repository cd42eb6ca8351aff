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


def _shape_failure(reference: Reference, name: str, tensor: Tensor, layout: Layout) -> str | None:
    expected = reference.expected_shape(name, layout)
    if tuple(tensor.shape) != expected:
        return f"{name} has shape {tuple(tensor.shape)}, not {expected}"
    return None


def _not_finite(reference: Reference, name: str, tensor: Tensor) -> str | None:
    finite = torch.isfinite(tensor)
    if bool(finite.all()):
        return None
    lead = sum(axis in "bhn" for axis in reference.spec(name).axes)
    rows = finite.flatten(lead).all(-1) if finite.dim() > lead else finite
    return f"{name} has NaN or Inf in {int((~rows).sum())} of {rows.numel()} rows"


def _deviations(reference: Reference, name: str, tensor: Tensor, layout: Layout) -> list[Deviation]:
    got, exact = reference.picked(name, tensor, layout), reference.tensors[name]
    found = [
        _whole(reference, name, got),
        _tile(reference, name, got),
        _row(reference, name, got),
        *_share(reference, name, got - exact, exact),
    ]
    if name in reference.sketches:
        found += _sketch(reference, name, tensor, layout)
    return found


def _whole(reference: Reference, name: str, got: Tensor) -> Deviation:
    """Judge the relative L2 error, the worst over the pairs of the sample."""
    error = relative_error(got, reference.tensors[name], reference.grad_norm).max().item()
    hint = " (what TF32 gives)" if reference.shape.dtype == "fp32" and 5e-5 < error < 5e-3 else ""
    return Deviation(name, "whole", error, reference.budgets[name], f"relative L2{hint}")


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
    """Judge the share of itself by which each tile is off; rows [pairs, n, columns] or projections."""
    if difference.shape[1] == 1:  # no tile: its one row is judged as such
        return []
    part, whole = (_over_tiles(x.sum(-1)) for x in (difference * exact, exact.square()))
    least = _TILE * reference.least[name] ** 2
    # Tiles that are much weaker than others of their pair hold what is left when larger terms cancel.
    strong = whole > (0.01 * whole.mean(dim=1, keepdim=True)).clamp_min(least)
    share = torch.where(strong, part / whole.clamp_min(least), 0.0).abs()
    first = _TILE * (int(share.argmax()) % share.shape[1])
    where = f"of itself in rows {first} to {first + _TILE - 1}"
    return [Deviation(name, "share", share.max().item(), SHARE_FACTOR * reference.budgets[name], where)]


def _sketch(reference: Reference, name: str, tensor: Tensor, layout: Layout) -> list[Deviation]:
    """Judge every row of every pair by its sketch, and the share of itself by which each tile is off."""
    spec, exact, budget = reference.spec(name), reference.sketches[name], reference.budgets[name]
    got = reference.sketcher.sketch(name, tensor, layout, no_signs(tensor))
    ratio = excess(got.values - exact.values, reference.row_scale(name, exact.norms))
    place = torch.unravel_index(ratio.argmax(), ratio.shape)
    words = {"b": "batch", "h": "head", "n": "row"}
    axes = [axis for axis in spec.axes if axis in words]
    where = ", ".join(f"{words[axis]} {int(at)}" for axis, at in zip(axes, place, strict=True))
    allowed = SKETCH_FACTOR * reference.slack.rows * budget
    rows = (-1, reference.shape.seq_len if "n" in spec.axes else 1, got.values.shape[-1])
    difference = (got.values - exact.values).reshape(rows)
    return [
        Deviation(name, "sketch", ratio.max().item() * budget, allowed, f"in {where}"),
        *_share(reference, name, difference, exact.values.reshape(rows)),
    ]


def _over_tiles(x: Tensor) -> Tensor:
    """Return the sums over tiles of rows, [pairs, tiles], of x [pairs, n]."""
    sums: Tensor = torch.nn.functional.pad(x, (0, -x.shape[1] % _TILE)).unflatten(1, (-1, _TILE)).sum(-1)
    return sums
