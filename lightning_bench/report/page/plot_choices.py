"""Which plots a view has: over n, over the batch, or one bar per provider at a single length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lightning_bench.report.page.views import LineShape, View, shape_words
from lightning_bench.report.plots.plot_rows import highlighted
from lightning_bench.report.tables.figures import figure

Across = Literal["seq_len", "batch", "provider"]

_BATCHES = 3


@dataclass(frozen=True)
class Choice:
    """One plot: over what, which lines of the view are in it, and the providers with a color."""

    over: Across
    label: str
    lines: list[int]
    colored: list[str]


def plot_choices(view: View) -> list[Choice]:
    """Return the plots of a view, the one of most lines first; none if no figure has another beside it."""
    if "against" in view.kinds:
        return []
    lines = [at for at in range(len(view.lines)) if any(c.value for c in view.first.cells[at])]
    others = [axis for axis in view.axes if axis not in ("seq_len", "value_dim")]
    found: list[Choice] = []
    single: list[int] = []
    for members in _over_n(view, lines, others):
        if len({view.lines[at].shape["seq_len"] for at in members}) > 1:
            found.append(_choice(view, "seq_len", _label(view, "Over n", members, others), members))
        else:
            single += members
    for members in _alike(view, single, [axis for axis in others if axis != "batch"]):
        rest = [axis for axis in others if axis != "batch"]
        if len({view.lines[at].shape["batch"] for at in members}) >= _BATCHES:
            found.append(_choice(view, "batch", _label(view, "Over the batch", members, rest), members))
            continue
        for at in members:
            if sum(bool(cell.value) for cell in view.first.cells[at]) > 1:
                label = _label(view, f"At n = {view.lines[at].shape['seq_len']}", [at], others)
                found.append(_choice(view, "provider", label, [at]))
    return sorted(found, key=lambda choice: -len(choice.lines))


def hero(views: Sequence[View]) -> tuple[View, Choice] | None:
    """Return the plot that the page begins with: of times, that with most points, over n if there is one."""
    found = [(view, choice) for view in views for choice in plot_choices(view)]
    if not found:
        return None

    def points(pair: tuple[View, Choice]) -> tuple[bool, bool, bool, int]:
        view, choice = pair
        first = view.records[0]
        count = sum(bool(cell.value) for at in choice.lines for cell in view.first.cells[at])
        return first.metric == "speed", first.protocol == "lbench", choice.over == "seq_len", count

    return max(found, key=points)


def _over_n(view: View, lines: Sequence[int], axes: Sequence[str]) -> list[list[int]]:
    """Return the lines that share these axes, and those of models of one size, whatever their attention.

    Models of one size stay apart if a provider trains several of them: it would have two figures at a length.
    """
    found: list[list[int]] = []
    for members in _alike(view, lines, axes, sized=True):
        cells = [
            (column, view.lines[at].shape["seq_len"])
            for at in members
            for column, cell in enumerate(view.first.cells[at])
            if cell.value
        ]
        found += [members] if len(cells) == len(set(cells)) else _alike(view, members, axes)
    return found


def _alike(view: View, lines: Sequence[int], axes: Sequence[str], *, sized: bool = False) -> list[list[int]]:
    groups: dict[tuple[object, ...], list[int]] = {}
    for at in lines:
        shape = view.lines[at].shape
        if sized:
            shape = shape | {"model": _size(shape)}
        groups.setdefault(tuple(shape[axis] for axis in (*axes, "value_dim")), []).append(at)
    return list(groups.values())


def _size(shape: LineShape) -> str:
    """Return the size in the name of a model, as 0.4b of tnl-0.4b; a blank where there is no model."""
    model = str(shape["model"])
    return model.partition("-")[2] or model


def _label(view: View, over: str, members: Sequence[int], axes: Sequence[str]) -> str:
    shape = view.lines[members[0]].shape
    if len({view.lines[at].shape["model"] for at in members}) > 1:
        shape = shape | {"model": f"models of {_size(shape)}"}
    words = shape_words(shape, axes)
    return f"{over}: {words}" if words else over


def _choice(view: View, over: Across, label: str, lines: list[int]) -> Choice:
    records = [cell.row.record for at in lines for cell in view.first.cells[at] if cell.row and cell.value]
    axis: Literal["seq_len", "batch"] = "batch" if over == "batch" else "seq_len"
    colored = highlighted(records, lambda r: figure(r) or math.nan, axis, "")
    return Choice(over, label, lines, sorted(colored))
