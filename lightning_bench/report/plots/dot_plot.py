"""Providers at single lengths: one line per provider, one dot per shape, on a logarithmic axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_bench.record import Record
from lightning_bench.report.collect import DIMS, ORIGIN, SHAPE
from lightning_bench.report.plots.line_ends import LINE_IN
from lightning_bench.report.plots.plot_rows import caption, check_same, heading, names_of, status_notes
from lightning_bench.report.plots.style import COLUMN, TEXT_PT, Look, Sheet, house_style, value_axis
from lightning_bench.report.tables.figures import floor_bandwidth, memory_mib, time_ms
from lightning_bench.variant import packing_label, read_packing

SAME = tuple(column for column in (*ORIGIN, *SHAPE) if column not in (*DIMS, "batch", "heads", "packing"))
"""Columns that the rows of a dot plot agree in."""

MOST_SHAPES = 4
"""Shapes, of batch, seq_len and packing, that one dot plot can hold."""

DotShape = tuple[int, int, str]

_DOTS = (("o", "#0072B2"), ("s", "#D55E00"), ("^", "#009E73"), ("D", "#CC79A7"))
_NARROW_IN = 5.0  # a figure of this width has no room for families
_GREY = "#777777"


def dot_plot(records: Iterable[Record], *, look: Look = COLUMN) -> Figure | None:
    """Draw the time in ms, or the memory in MiB, of every provider: families together, the fastest first.

    The records are of one suite, machine, protocol, metric, direction, dtype, layer and rank, and of at most
    four shapes of batch, seq_len and packing, else ValueError; heads and head dims may differ. None with
    fewer than three providers that have a figure.
    """
    records = [r for r in records if r.heads]
    check_same(records, SAME)
    speed = bool(records) and records[0].metric == "speed"
    value = time_ms if speed else memory_mib
    shown = [r for r in records if value(r)]
    if len({r.provider for r in shown}) < 3:
        return None
    shapes = sorted({dot_shape(r) for r in shown}, key=lambda shape: (-shape[0], shape[1:]))
    if len(shapes) > MOST_SHAPES:
        raise ValueError(f"one dot plot cannot hold {len(shapes)} shapes; allowed: up to {MOST_SHAPES}")
    names = names_of(records, labels=look.labels)
    order = _order(shown, value)
    with house_style():
        sheet = Sheet(look, [LINE_IN * (len(order) + 1)])
        axes = sheet.axes[0]
        for line, provider in enumerate(order):
            own = [r for r in shown if r.provider == provider]
            for record in own:
                marker, color = _DOTS[shapes.index(dot_shape(record))]
                at = value(record) or math.nan
                axes.plot([at], [line], marker, color=color, markersize=4.2, gid=f"dot-{record.case_id}")
                if least := _floor(record):
                    axes.plot([least], [line], "|", color=color, markersize=6.0, markeredgewidth=1.0)
        low = [least for r in shown if (least := _floor(r))]
        value_axis(axes, "x", [*(value(r) or math.nan for r in shown), *low])
        axes.set_xlabel("median time (ms)" if speed else "memory that the call adds (MiB)")
        axes.set_ylim(len(order) - 0.5, -0.5)
        axes.set_yticks(range(len(order)), [names[provider] for provider in order], fontsize=TEXT_PT)
        axes.tick_params(axis="y", length=0)
        _part(axes, shown, order, named=look.width_in > _NARROW_IN)
        notes = [_explained(shapes, shown, speed=speed)]
        notes += status_notes(records, names, value)
        return sheet.finish(heading(records, dims=False), notes, caption(records))


def dot_shape(record: Record) -> DotShape:
    """Return what the marker of a record stands for: batch, seq_len and packing."""
    return record.batch, record.seq_len, record.packing


def _floor(record: Record) -> float | None:
    return record.floor_ms if record.metric == "speed" else record.ideal_mib


def _order(shown: Sequence[Record], value: Callable[[Record], float | None]) -> list[str]:
    """Return providers, those of one family together; the least sum of logarithms first."""
    means: dict[str, float] = {}
    for provider in dict.fromkeys(r.provider for r in shown):
        own = [math.log(value(r) or math.nan) for r in shown if r.provider == provider]
        means[provider] = sum(own) / len(own)
    families = {r.provider: r.family for r in shown}
    best = {family: min(means[p] for p in means if families[p] == family) for family in families.values()}
    return sorted(means, key=lambda p: (best[families[p]], families[p], means[p]))


def _part(axes: Axes, shown: Sequence[Record], order: Sequence[str], *, named: bool) -> None:
    """Rule off the families, and if `named` write the name of each at the right edge."""
    families = {r.provider: r.family for r in shown}
    for line, provider in enumerate(order):
        if line and families[provider] == families[order[line - 1]]:
            continue
        if line:
            axes.axhline(line - 0.5, color="#BBBBBB", linewidth=0.4, zorder=1)
        if not named:
            continue
        axes.text(
            1.01,
            line,
            families[provider],
            transform=axes.get_yaxis_transform(),
            va="center",
            fontsize=TEXT_PT,
            color=_GREY,
        )


def _explained(shapes: Sequence[DotShape], shown: Sequence[Record], *, speed: bool) -> str:
    signs = {"o": "●", "s": "■", "^": "▲", "D": "◆"}
    words = [
        f"documents {packing_label(read_packing(packing))}" if packing else f"batch {batch}, n = {n}"
        for batch, n, packing in shapes
    ]
    dots = ", ".join(f"{signs[_DOTS[at][0]]} {text}" for at, text in enumerate(words))
    bandwidth = floor_bandwidth(next((r for r in shown if r.ceiling_gbps), shown[0]))
    least = (
        f"the maximum of what the minimum bytes (at {bandwidth}) and operations take"
        if speed
        else "what the outputs take"
    )
    return f"{dots}; upright strokes: {least}."
