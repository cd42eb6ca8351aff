"""Plots with one line per provider: time, time per token, speedup and memory over n, and the roofline.

A plot takes records of one suite, machine, protocol, metric, direction, dtype and shape that differ in
provider and seq_len, and is None if they leave nothing to show. It holds what rows hold: no fit, no
smoothing. A cell without a figure is no point; a note under the plot names it. Each line has the provider
as its gid (`series-flash2`), by which it is found in an SVG.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lightning_bench.record import Record
from lightning_bench.report.plots.plot_rows import (
    caption,
    heading,
    lengths_text,
    names_of,
    of_one,
    status_notes,
    together_notes,
)
from lightning_bench.report.plots.strokes import Stroke, strokes
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

_REFERENCE = {"color": "#777777", "linestyle": (0.0, (2.0, 1.5)), "linewidth": 0.9, "zorder": 1.5}


def time_plot(records: Iterable[Record], *, look: Look = COLUMN) -> Figure | None:
    """Draw time in ms against n, both logarithmic, with the band from the 20th to the 80th percentile."""
    records = of_one(records)
    what = "median" if records and records[0].protocol == "lbench" else "mean"
    quantity = _Quantity(
        f"{what} time (ms)",
        time_ms,
        band=lambda r: (r.p20_ms, r.p80_ms),
        reference=(_least_bytes(records), bytes_floor_ms),
    )
    return _over_n(records, look, quantity)


def per_token_plot(records: Iterable[Record], *, look: Look = COLUMN) -> Figure | None:
    """Draw time in ns for each of batch · n tokens against n: constant where time is linear in n."""

    def ns(record: Record, ms: float | None) -> float | None:
        return None if ms is None else ms * 1e6 / (record.batch * record.seq_len)

    records = of_one(records)
    quantity = _Quantity(
        "time per token (ns)",
        lambda r: ns(r, time_ms(r)),
        band=lambda r: (ns(r, r.p20_ms), ns(r, r.p80_ms)),
        reference=(_least_bytes(records), lambda r: ns(r, bytes_floor_ms(r))),
    )
    return _over_n(records, look, quantity)


def _least_bytes(records: Sequence[Record]) -> str:
    """Name the line of `bytes_floor_ms`, which goes through the last row of each length."""
    drawn = [record for record in records if record.ceiling_gbps]
    return f"least bytes at {floor_bandwidth(drawn[-1]) if drawn else 'copy bandwidth'}"


def speedup_plot(records: Iterable[Record], baseline: str, *, look: Look = COLUMN) -> Figure | None:
    """Draw the baseline's time over each provider's against n; None if the baseline has no time."""
    records = of_one(records)
    base = {r.seq_len: r for r in records if r.provider == baseline and time_ms(r) is not None}
    if not base:
        return None

    def speedup(record: Record) -> float | None:
        ms, of = time_ms(record), base.get(record.seq_len)
        return None if ms is None or of is None else (time_ms(of) or math.nan) / ms

    family = next(iter(base.values())).family
    names = names_of(records, labels=look.labels)
    notes = []
    if without := sorted({r.seq_len for r in records if time_ms(r) is not None} - base.keys()):
        notes.append(f"No speedup at {lengths_text(without)}: {names[baseline]} has no time there.")
    if any(r.family != family for r in records if speedup(r) is not None):
        notes.append(
            f"{names[baseline]} computes {family}; against another family a speedup compares mechanisms."
        )
    quantity = _Quantity(f"speedup over {names[baseline]}", speedup, notes=notes, needed=time_ms, ratio=True)
    return _over_n(records, look, quantity)


def memory_plot(records: Iterable[Record], *, look: Look = COLUMN) -> Figure | None:
    """Draw memory in MiB against n, and the size of the outputs, under protocol paper of the inputs too."""
    records = of_one(records)
    if records and records[0].protocol == "paper":
        label, reference = "peak memory, inputs included (MiB)", ("inputs and outputs (ideal)", io_mib)
        return _over_n(records, look, _Quantity(label, memory_mib, reference=reference))
    quantity = _Quantity(
        "memory that the call adds (MiB)",
        memory_mib,
        reference=("outputs alone (ideal)", lambda r: r.ideal_mib),
    )
    return _over_n(records, look, quantity)


def roofline_plot(records: Iterable[Record], *, look: Look = COLUMN) -> Figure | None:
    """Draw model TFLOP/s against model FLOP per byte, under the ceilings measured in the same run.

    A provider's line goes through its lengths; its large marker is the longest.
    """
    records = of_one(records)
    drawn = [r for r in records if time_ms(r) and r.tflops and r.ceiling_gbps and r.ceiling_tflops]
    if not drawn:
        return None
    gbps = _middle(r.ceiling_gbps for r in drawn)
    tflops = _middle(r.ceiling_tflops for r in drawn)
    with house_style():
        sheet = Sheet(look, [look.axes_in])
        axes = sheet.axes[0]
        names, styles = (
            names_of(records, labels=look.labels),
            strokes({r.provider: r.family for r in records}),
        )
        legend: dict[str, Artist] = {}
        intensities = [intensity(r) for r in drawn]
        for provider, name in names.items():
            points = sorted((r for r in drawn if r.provider == provider), key=lambda r: r.seq_len)
            if not points:
                continue
            x, y = [intensity(r) for r in points], [r.tflops or math.nan for r in points]
            legend[name] = _line(axes, provider, styles[provider], x, y, len(legend))
            if len(set(x)) == 1:  # several providers on one upright: the dots say enough
                cast(Line2D, legend[name]).set_linewidth(0.5)
            cast(Line2D, legend[name]).set_markevery([len(points) - 1])
            axes.plot(
                x[:-1], y[:-1], linestyle="none", marker=".", markersize=2.2, color=styles[provider].color
            )
        ridge = tflops * 1e3 / gbps
        value_axis(axes, "x", [*intensities, ridge / 4, ridge * 4])
        low, high = axes.get_xlim()
        roof = [(low, low * gbps / 1e3), (ridge, tflops), (high, tflops)]
        (ceiling,) = axes.plot(*zip(*roof, strict=True), color="black", linewidth=1.2, gid="ceilings")
        value_axis(axes, "y", [*(r.tflops or math.nan for r in drawn), tflops, min(tflops, roof[0][1])])
        axes.set_xlabel("intensity (model FLOP per byte)")
        axes.set_ylabel("model rate (TFLOP/s)")
        legend["ceilings"] = ceiling
        notes = [
            f"Ceilings measured in the same run: {gbps:,.0f} GB/s, {tflops:,.0f} TFLOP/s.",
            "Dots are the lengths, the marker the longest.",
            *status_notes(records, names, time_ms),
        ]
        return sheet.finish(heading(records), legend, notes, caption(records))


@dataclass(frozen=True)
class _Quantity:
    """What a plot over n shows of a row: the value of its line, and what is drawn and written beside it.

    `needed` is what a row must have to need no note, if that is not `value`.
    """

    label: str
    value: Callable[[Record], float | None]
    band: Callable[[Record], tuple[float | None, float | None]] | None = None
    reference: tuple[str, Callable[[Record], float | None]] | None = None
    notes: Sequence[str] = ()
    needed: Callable[[Record], float | None] | None = None
    ratio: bool = False


def _over_n(records: list[Record], look: Look, quantity: _Quantity) -> Figure | None:
    """Return lines of a quantity over n; None with figures at fewer than two lengths."""
    value, band, reference = quantity.value, quantity.band, quantity.reference
    shown = [r for r in records if value(r)]
    if len({r.seq_len for r in shown}) < 2:
        return None
    with house_style():
        sheet = Sheet(look, [look.axes_in])
        axes = sheet.axes[0]
        names, styles = (
            names_of(records, labels=look.labels),
            strokes({r.provider: r.family for r in records}),
        )
        lines: dict[str, Line2D] = {}
        heights: list[float] = []
        values: dict[str, dict[int, float]] = {}
        banded = False
        for provider, name in names.items():
            own = sorted((r for r in shown if r.provider == provider), key=lambda r: r.seq_len)
            if not own:
                continue
            x, y = [r.seq_len for r in own], [value(r) or math.nan for r in own]
            lines[name] = _line(axes, provider, styles[provider], x, y, len(lines))
            values[name] = dict(zip(x, y, strict=True))
            heights += y
            edges = [band(r) if band else (None, None) for r in own]
            low, high = ([e[i] or math.nan for e in edges] for i in (0, 1))
            if any(map(math.isfinite, low)):
                banded = True
                color = styles[provider].color
                axes.fill_between(x, low, high, color=color, alpha=0.25, linewidth=0, gid=f"band-{provider}")
        if look.legend == "right":  # beside the lines' right ends, in their order
            lines = dict(sorted(lines.items(), key=lambda item: -float(cast(Any, item[1].get_ydata())[-1])))
        legend: dict[str, Artist] = {**lines}
        points = {r.seq_len: at for r in shown if reference and (at := reference[1](r))}
        if reference and points:
            x = sorted(points)
            (line,) = axes.plot(x, [points[n] for n in x], gid="reference", **cast(Any, _REFERENCE))
            legend[reference[0]] = line
            values[reference[0]] = points
            heights += points.values()
        if quantity.ratio:
            axes.axhline(1.0, color="black", linewidth=0.7, zorder=1.4)
            heights.append(1.0)
        length_axis(axes, [r.seq_len for r in shown], look)
        value_axis(axes, "y", heights, ratio=quantity.ratio)
        axes.set_ylabel(quantity.label)
        apart = (max(heights) / min(heights)) ** 0.01  # a hundredth of the axis
        notes = ["Bands: 20th to 80th percentile."] if banded else []
        notes += [*quantity.notes, *together_notes(values, apart)]
        notes += status_notes(records, names, quantity.needed or value)
        return sheet.finish(heading(records), legend, notes, caption(records))


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
        zorder=3 - 0.01 * drawn,
        gid=f"series-{provider}",
    )
    return line


def _middle(values: Iterable[float | None]) -> float:
    found = sorted(value for value in values if value)
    return found[len(found) // 2]
