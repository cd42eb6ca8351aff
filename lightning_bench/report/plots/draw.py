"""Records to plots: one figure for what a table shows, in the style of ``plot_style``.

A plot takes records of one suite, machine, protocol, metric, direction, dtype and shape that differ in
provider and seq_len, and is None where they leave nothing to show. It holds what rows hold: no fit, no
smoothing. A cell without a figure is no point; a note under the plot names it. Each line has the provider
as its gid (``series-flash2``), for those who look for it in an SVG.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lightning_bench.record import Record, Row
from lightning_bench.report.collect import frame_of, rows_by
from lightning_bench.report.plots.heat import heat_map
from lightning_bench.report.plots.plot_rows import (
    SHARED,
    caption,
    check_same,
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
from lightning_bench.report.tables.figures import copy_floor_ms, intensity, io_mib, memory_mib, time_ms, title
from lightning_bench.report.tables.groups import group

Format = Literal["png", "svg", "pdf"]

_REFERENCE = {"color": "#777777", "linestyle": (0.0, (2.0, 1.5)), "linewidth": 0.9, "zorder": 1.5}


def time_plot(records: Iterable[Record], *, look: Look = COLUMN) -> Figure | None:
    """Time in ms against n, both logarithmic, with the band from the 20th to the 80th percentile."""
    records = of_one(records)
    what = "median" if records and records[0].protocol == "lbench" else "mean"
    return _against_n(
        records,
        look,
        f"{what} time (ms)",
        time_ms,
        band=lambda r: (r.p20_ms, r.p80_ms),
        reference=("least bytes at copy bandwidth", copy_floor_ms),
    )


def per_token_plot(records: Iterable[Record], *, look: Look = COLUMN) -> Figure | None:
    """Time in ns for each of batch · n tokens against n: constant where time is linear in n."""

    def ns(record: Record, ms: float | None) -> float | None:
        return None if ms is None else ms * 1e6 / (record.batch * record.seq_len)

    return _against_n(
        of_one(records),
        look,
        "time per token (ns)",
        lambda r: ns(r, time_ms(r)),
        band=lambda r: (ns(r, r.p20_ms), ns(r, r.p80_ms)),
        reference=("least bytes at copy bandwidth", lambda r: ns(r, copy_floor_ms(r))),
    )


def speedup_plot(records: Iterable[Record], baseline: str, *, look: Look = COLUMN) -> Figure | None:
    """The baseline's time over each provider's against n; None if the baseline has no time."""
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
    return _against_n(
        records, look, f"speedup over {names[baseline]}", speedup, notes=notes, figure=time_ms, ratio=True
    )


def memory_plot(records: Iterable[Record], *, look: Look = COLUMN) -> Figure | None:
    """Memory in MiB against n and the ideal: what the outputs take, under protocol paper with the inputs."""
    records = of_one(records)
    paper = bool(records) and records[0].protocol == "paper"

    return _against_n(
        records,
        look,
        "peak memory, inputs included (MiB)" if paper else "memory that the call adds (MiB)",
        memory_mib,
        reference=("inputs and outputs (ideal)", io_mib)
        if paper
        else ("outputs alone (ideal)", lambda r: r.ideal_mib),
    )


def roofline_plot(records: Iterable[Record], *, look: Look = COLUMN) -> Figure | None:
    """Model TFLOP/s against model FLOP per byte, under the ceilings measured in the same run.

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


def save_plot(figure: Figure, stem: str | Path, formats: Sequence[Format], *, title: str = "") -> list[Path]:
    """Write ``stem.png`` and so on; the same figure gives the same bytes, since no date is in them."""
    paths = []
    for name in formats:
        path = Path(f"{stem}.{name}")
        metadata: dict[str, Any] = {
            "png": {"Software": None, "Title": title},
            "svg": {"Date": None, "Creator": "lightning-bench", "Title": title},
            "pdf": {"CreationDate": None, "Creator": "lightning-bench", "Title": title},
        }[name]
        with house_style():
            figure.savefig(path, format=name, metadata=metadata)
        paths.append(path)
    return paths


def plot_set(
    rows: Iterable[Row],
    formats: Sequence[Format],
    folder: str | Path,
    baseline: str | None = None,
    *,
    look: Look = COLUMN,
) -> list[Path]:
    """Write every plot that the rows can fill into `folder` and return the files, in their order.

    The rows are of one machine and protocol, else ValueError. Files are named after the table
    (`…-dtype_bf16-time.svg`); the heat maps, which are of several tables, without the dims.
    """
    rows = list(rows)
    check_same([row.record for row in rows], ("machine_id", "protocol"))
    figures: list[tuple[str, Figure | None]] = []
    for table in group(rows):
        records = [row.record for row in table.rows]
        name = title(records[0])
        if records[0].metric == "memory":
            figures.append((f"{name}-memory", memory_plot(records, look=look)))
        elif records[0].metric == "speed":
            figures.append((f"{name}-time", time_plot(records, look=look)))
            if baseline is not None:
                figures.append((f"{name}-speedup", speedup_plot(records, baseline, look=look)))
            figures.append((f"{name}-per_token", per_token_plot(records, look=look)))
            figures.append((f"{name}-roofline", roofline_plot(records, look=look)))
    for tables in rows_by(frame_of(row for row in rows if row.record.metric == "speed"), SHARED).values():
        records = [row.record for row in tables]
        name = re.sub(r"-qk_dim\d+-v_dim\d+", "", title(records[0]))
        figures.append((f"{name}-heat_floor", heat_map(records, look=look)))
        figures.append((f"{name}-heat_ms", heat_map(records, value="ms", look=look)))
    paths: list[Path] = []
    for name, figure in figures:
        if figure is not None:
            Path(folder).mkdir(parents=True, exist_ok=True)
            stem = re.sub(r"[^\w.+-]", "_", name) + look.suffix
            paths += save_plot(figure, Path(folder) / stem, formats, title=name)
    return paths


def _against_n(
    records: list[Record],
    look: Look,
    ylabel: str,
    value: Callable[[Record], float | None],
    *,
    band: Callable[[Record], tuple[float | None, float | None]] | None = None,
    reference: tuple[str, Callable[[Record], float | None]] | None = None,
    notes: Sequence[str] = (),
    figure: Callable[[Record], float | None] | None = None,
    ratio: bool = False,
) -> Figure | None:
    """Lines of ``value`` over n; None with figures at fewer than two lengths.

    ``figure`` is what a row must have to need no note, where that is not ``value``.
    """
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
        if ratio:
            axes.axhline(1.0, color="black", linewidth=0.7, zorder=1.4)
            heights.append(1.0)
        length_axis(axes, [r.seq_len for r in shown], look)
        value_axis(axes, "y", heights, ratio=ratio)
        axes.set_ylabel(ylabel)
        apart = (max(heights) / min(heights)) ** 0.01  # a hundredth of the axis
        said = [*notes, *together_notes(values, apart), *status_notes(records, names, figure or value)]
        if banded:
            said.insert(0, "Bands: 20th to 80th percentile.")
        return sheet.finish(heading(records), legend, said, caption(records))


def _line(
    axes: Axes, provider: str, stroke: Stroke, x: Sequence[float], y: Sequence[float], drawn: int
) -> Line2D:
    """``drawn`` lines are there already; they stay on top, since a table's first columns matter most."""
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
