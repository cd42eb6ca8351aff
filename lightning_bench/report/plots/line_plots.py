"""Plots with one line per provider: time, time per token, speedup and memory over n, and the roofline.

A plot takes records of one suite, machine, protocol, metric, direction, dtype and shape that differ in
provider and seq_len (and batch, if it is over that), and is None if they leave nothing to show. At most eight
lines have a color, the others are grey. It holds what rows hold: no fit, no smoothing. A cell without a
figure is no point; a note under the plot names it. Each line has the provider as its gid (`series-flash2`),
by which it is found in an SVG.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lightning_bench.record import Record
from lightning_bench.report.plots.line_ends import LineEnd, name_lines
from lightning_bench.report.plots.plot_rows import (
    Over,
    batch_label,
    caption,
    heading,
    highlighted,
    lengths_text,
    names_of,
    of_one,
    status_notes,
    together_notes,
)
from lightning_bench.report.plots.strokes import Stroke, muted, strokes
from lightning_bench.report.plots.style import (
    COLUMN,
    Look,
    Sheet,
    house_style,
    length_axis,
    value_axis,
)
from lightning_bench.report.tables.figures import (
    bytes_floor_ms,
    floor_bandwidth,
    intensity,
    io_mib,
    memory_mib,
    time_ms,
)

_ALIKE = 1.05
"""Minima of several runs differ by their bandwidths, up to this ratio."""

_REFERENCE: dict[str, Any] = {
    "color": "#777777",
    "linestyle": (0.0, (2.0, 1.5)),
    "linewidth": 0.9,
    "zorder": 1.5,
}


def time_plot(records: Iterable[Record], *, look: Look = COLUMN, over: Over = "seq_len") -> Figure | None:
    """Draw time in ms against n, both logarithmic, with the band from the 20th to the 80th percentile."""
    records = of_one(records, over=over)
    what = "median" if records and records[0].protocol == "lbench" else "mean"
    quantity = Quantity(
        f"{what} time (ms)",
        time_ms,
        band=lambda r: (r.p20_ms, r.p80_ms),
        reference=("minimum bytes", _least_bytes(records), bytes_floor_ms),
    )
    return draw_lines(records, look, quantity, over)


def per_token_plot(records: Iterable[Record], *, look: Look = COLUMN) -> Figure | None:
    """Draw time in ns for each of batch · n tokens against n: constant where time is linear in n."""

    def ns(record: Record, ms: float | None) -> float | None:
        return None if ms is None else ms * 1e6 / (record.batch * record.seq_len)

    records = of_one(records)
    quantity = Quantity(
        "time per token (ns)",
        lambda r: ns(r, time_ms(r)),
        band=lambda r: (ns(r, r.p20_ms), ns(r, r.p80_ms)),
        reference=("minimum bytes", _least_bytes(records), lambda r: ns(r, bytes_floor_ms(r))),
    )
    return draw_lines(records, look, quantity)


def _least_bytes(records: Sequence[Record]) -> str:
    """Explain the line of `bytes_floor_ms`, which goes through the last row of each length."""
    drawn = [record for record in records if record.ceiling_gbps]
    bandwidth = floor_bandwidth(drawn[-1]) if drawn else "copy bandwidth"
    return f"Dotted: the minimum number of bytes at {bandwidth}."


def speedup_plot(
    records: Iterable[Record], baseline: str, *, look: Look = COLUMN, over: Over = "seq_len"
) -> Figure | None:
    """Draw the baseline's time over each provider's against n; None if the baseline has no time."""
    records = of_one(records, over=over)
    base = {getattr(r, over): r for r in records if r.provider == baseline and time_ms(r) is not None}
    if not base:
        return None

    def speedup(record: Record) -> float | None:
        ms, of = time_ms(record), base.get(getattr(record, over))
        return None if ms is None or of is None else (time_ms(of) or math.nan) / ms

    family = next(iter(base.values())).family
    names = names_of(records, labels=look.labels)
    notes = []
    if without := sorted({getattr(r, over) for r in records if time_ms(r) is not None} - base.keys()):
        notes.append(f"No speedup at {lengths_text(without)}: {names[baseline]} has no time there.")
    if any(r.family != family for r in records if speedup(r) is not None):
        notes.append(
            f"{names[baseline]} computes {family}; against another family a speedup compares mechanisms."
        )
    quantity = Quantity(
        f"speedup over {names[baseline]}", speedup, notes=notes, needed=time_ms, baseline=baseline
    )
    return draw_lines(records, look, quantity, over)


def memory_plot(records: Iterable[Record], *, look: Look = COLUMN, over: Over = "seq_len") -> Figure | None:
    """Draw memory in MiB against n, and the size of the outputs, under protocol paper of the inputs too."""
    records = of_one(records, over=over)
    if records and records[0].protocol == "paper":
        label = "peak memory, inputs included (MiB)"
        reference = ("inputs and outputs", "Dotted: inputs and outputs, the minimum.", io_mib)
        return draw_lines(records, look, Quantity(label, memory_mib, reference=reference), over)
    quantity = Quantity(
        "memory that the call adds (MiB)",
        memory_mib,
        reference=("outputs", "Dotted: the outputs, the minimum.", lambda r: r.ideal_mib),
    )
    return draw_lines(records, look, quantity, over)


def roofline_plot(records: Iterable[Record], *, look: Look = COLUMN) -> Figure | None:
    """Draw model TFLOP/s against model FLOP per byte, under the ceilings measured in the same run.

    A provider's line goes through its lengths; its large marker is the longest. None with one length.
    """
    records = of_one(records)
    drawn = [r for r in records if time_ms(r) and r.tflops and r.ceiling_gbps and r.ceiling_tflops]
    if len({r.seq_len for r in drawn}) < 2:
        return None
    gbps = _middle(r.ceiling_gbps for r in drawn)
    tflops = _middle(r.ceiling_tflops for r in drawn)
    with house_style():
        sheet = Sheet(look, [look.axes_in])
        axes = sheet.axes[0]
        names = names_of(records, labels=look.labels)
        styles = line_strokes(drawn, lambda r: time_ms(r) or math.nan)
        ends: list[LineEnd] = []
        for provider, name in names.items():
            points = sorted((r for r in drawn if r.provider == provider), key=lambda r: r.seq_len)
            if not points:
                continue
            x, y = [intensity(r) for r in points], [r.tflops or math.nan for r in points]
            line = _line(axes, provider, styles[provider], x, y, len(ends))
            if len(set(x)) == 1:  # several providers on one upright: the dots say enough
                line.set_linewidth(0.5)
            line.set_markevery([len(points) - 1])
            color = styles[provider].color
            axes.plot(x[:-1], y[:-1], linestyle="none", marker=".", markersize=2.2, color=color)
            ends.append(LineEnd(name, x[-1], y[-1], color))
        ridge = tflops * 1e3 / gbps
        value_axis(axes, "x", [*(intensity(r) for r in drawn), ridge / 4, ridge * 4])
        low, high = axes.get_xlim()
        roof = [(low, low * gbps / 1e3), (ridge, tflops), (high, tflops)]
        axes.plot(*zip(*roof, strict=True), color="black", linewidth=1.2, gid="ceilings")
        value_axis(axes, "y", [*(r.tflops or math.nan for r in drawn), tflops, min(tflops, roof[0][1])])
        axes.set_xlabel("intensity (model FLOP per byte)")
        axes.set_ylabel("model rate (TFLOP/s)")
        name_lines(sheet, [*ends, LineEnd("ceilings", high, tflops, "#000000")])
        notes = [
            f"Ceilings measured in the same run: {gbps:,.0f} GB/s, {tflops:,.0f} TFLOP/s.",
            "Dots are the lengths, the marker the longest.",
            *status_notes(records, names, time_ms),
        ]
        return sheet.finish(heading(records), notes, caption(records))


@dataclass(frozen=True)
class Quantity:
    """What a plot shows of a row: the value of its line, and what is drawn and written beside it.

    `reference` has a name, a sentence and a value. `needed` is what a row must have to need no note, if
    that is not `value`. `baseline` is the provider that the values are ratios to.
    """

    label: str
    value: Callable[[Record], float | None]
    band: Callable[[Record], tuple[float | None, float | None]] | None = None
    reference: tuple[str, str, Callable[[Record], float | None]] | None = None
    notes: Sequence[str] = ()
    needed: Callable[[Record], float | None] | None = None
    baseline: str = ""


def draw_lines(
    records: list[Record], look: Look, quantity: Quantity, over: Over = "seq_len"
) -> Figure | None:
    """Return lines of a quantity over n or batch; None with figures at fewer than two places."""
    value, band, reference = quantity.value, quantity.band, quantity.reference
    shown = [r for r in records if value(r)]
    places = sorted({getattr(r, over) for r in shown})
    if len(places) < 2:
        return None
    with house_style():
        sheet = Sheet(look, [look.axes_in])
        axes = sheet.axes[0]
        names = names_of(records, labels=look.labels)
        ratio = bool(quantity.baseline)
        styles = line_strokes(
            shown, lambda r: (value(r) or math.nan) * (-1 if ratio else 1), over, quantity.baseline
        )
        ends: list[LineEnd] = []
        heights: list[float] = []
        values: dict[str, dict[int, float]] = {}
        banded = False
        for provider, name in names.items():
            own = sorted((r for r in shown if r.provider == provider), key=lambda r: getattr(r, over))
            if not own:
                continue
            x, y = [getattr(r, over) for r in own], [value(r) or math.nan for r in own]
            _line(axes, provider, styles[provider], x, y, len(ends))
            ends.append(LineEnd(name, x[-1], y[-1], styles[provider].color))
            values[name] = dict(zip(x, y, strict=True))
            heights += y
            edges = [band(r) if band else (None, None) for r in own]
            low, high = ([e[i] or math.nan for e in edges] for i in (0, 1))
            if any(map(math.isfinite, low)):
                banded = True
                color = styles[provider].color
                axes.fill_between(x, low, high, color=color, alpha=0.25, linewidth=0, gid=f"band-{provider}")
        points = _shared([(getattr(r, over), at) for r in shown if reference and (at := reference[2](r))])
        if reference and points:
            x = sorted(points)
            axes.plot(x, [points[n] for n in x], gid="reference", **_REFERENCE)
            ends.append(LineEnd(reference[0], x[-1], points[x[-1]], _REFERENCE["color"]))
            values[reference[0]] = points
            heights += points.values()
        if ratio:
            axes.axhline(1.0, color="black", linewidth=0.7, zorder=1.4)
            heights.append(1.0)
        length_axis(axes, places, look)
        if over == "batch":
            axes.set_xlabel(batch_label(shown))
        value_axis(axes, "y", heights, ratio=ratio)
        axes.set_ylabel(quantity.label)
        name_lines(sheet, ends)
        apart = (max(heights) / min(heights)) ** 0.01  # a hundredth of the axis
        notes = ["Bands: 20th to 80th percentile."] if banded else []
        notes += [reference[1]] if reference and points else []
        notes += [*quantity.notes, *together_notes(values, apart)]
        notes += status_notes(records, names, quantity.needed or value, over)
        return sheet.finish(heading(records), notes, caption(records))


def _shared(found: Iterable[tuple[int, float]]) -> dict[int, float]:
    """Return the last value of each place; none where values of one place differ: one line would be wrong."""
    places: dict[int, list[float]] = {}
    for place, value in found:
        places.setdefault(place, []).append(value)
    if any(max(values) > _ALIKE * min(values) for values in places.values()):
        return {}
    return {place: values[-1] for place, values in places.items()}


def line_strokes(
    records: Sequence[Record], rank: Callable[[Record], float], over: Over = "seq_len", first: str = ""
) -> dict[str, Stroke]:
    """Return the stroke of each provider, in color those of `highlighted` and the others in grey."""
    found = strokes({r.provider: r.family for r in records})
    colored = highlighted(records, rank, over, first)
    return {name: stroke if name in colored else muted(stroke) for name, stroke in found.items()}


def _line(
    axes: Axes, provider: str, stroke: Stroke, x: Sequence[float], y: Sequence[float], drawn: int
) -> Line2D:
    """Draw a line below the `drawn` ones: a table's first columns matter most."""
    (line,) = axes.plot(
        x,
        y,
        color=stroke.color,
        marker=stroke.marker,
        linestyle=stroke.dashes,
        markerfacecolor="white" if stroke.hollow else stroke.color,
        markeredgecolor=stroke.color,
        markeredgewidth=0.8,
        zorder=(2 if stroke == muted(stroke) else 3) - 0.01 * drawn,
        gid=f"series-{provider}",
    )
    return line


def _middle(values: Iterable[float | None]) -> float:
    found = sorted(value for value in values if value)
    return found[len(found) // 2]
