"""Heat maps: a head dim by n panel for each provider, with the number in its cell."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lightning_bench.record import Record
from lightning_bench.report.plots.plot_rows import caption, heading, names_of, of_one, status_notes
from lightning_bench.report.plots.style import (
    COLUMN,
    TEXT_PT,
    Look,
    Sheet,
    house_style,
    length_text,
    three_digits,
)
from lightning_bench.report.tables.figures import floor_bandwidth, time_ms

HeatValue = Literal["floor", "ms"]


def heat_map(records: Iterable[Record], *, value: HeatValue = "floor", look: Look = COLUMN) -> Figure | None:
    """Draw head dim by n, a panel for each provider: time over its floor, or in ms.

    The records may differ in head_dim and value_dim too. None unless two head dims with a figure have two
    lengths.
    """
    records = of_one(records, dims=True)

    def number(record: Record) -> float | None:
        ms = time_ms(record)
        if ms is None or value == "ms":
            return ms
        return ms / record.floor_ms if record.floor_ms else None

    shown = [r for r in records if number(r) is not None]
    cells = {(r.head_dim, r.value_dim, r.seq_len) for r in records}
    lengths_of = Counter((head_dim, value_dim) for head_dim, value_dim, _ in cells)
    dims = sorted({(r.head_dim, r.value_dim) for r in shown if lengths_of[r.head_dim, r.value_dim] > 1})
    if len(dims) < 2:
        return None
    shown = [r for r in shown if (r.head_dim, r.value_dim) in dims]
    records = [r for r in records if (r.head_dim, r.value_dim) in dims]
    lengths = sorted({r.seq_len for r in records})
    names = {
        p: n for p, n in names_of(records, labels=look.labels).items() if any(r.provider == p for r in shown)
    }
    low, high = min(number(r) or math.nan for r in shown), max(number(r) or math.nan for r in shown)
    with house_style():
        sheet = Sheet(look, [0.2 * len(dims)] * len(names))
        for axes, (provider, name) in zip(sheet.axes, names.items(), strict=True):
            axes.grid(visible=False)
            for spine in axes.spines.values():
                spine.set_visible(False)
            for record in (r for r in records if r.provider == provider):
                at = lengths.index(record.seq_len), dims.index((record.head_dim, record.value_dim))
                _heat_cell(axes, at, record, number(record), low, high)
            axes.set_xlim(-0.5, len(lengths) - 0.5)
            axes.set_ylim(-0.5, len(dims) - 0.5)
            axes.set_yticks(range(len(dims)), [str(d) if d == e else f"{d}/{e}" for d, e in dims])
            axes.set_xticks(range(len(lengths)), [])
            axes.tick_params(length=0)
            axes.set_title(name, loc="left", fontsize=TEXT_PT, pad=2)
        sheet.axes[-1].set_xticks(range(len(lengths)), [length_text(n) for n in lengths])
        sheet.axes[-1].set_xlabel("sequence length n (tokens)")
        sheet.axes[len(names) // 2].set_ylabel("head dim")
        of_floor = (
            f"× the longer of what the least bytes (at {floor_bandwidth(shown[0])}) and operations take"
        )
        what = of_floor if value == "floor" else "ms"
        notes = [
            f"In each cell: {what}, darker is slower. Blank: not measured.",
            *status_notes(records, names, time_ms),
        ]
        return sheet.finish(heading(records, dims=False), notes, caption(records))


def _heat_cell(
    axes: Axes, at: tuple[int, int], record: Record, number: float | None, low: float, high: float
) -> None:
    """Draw a square from pale at `low` to dark blue at `high`, in logarithm; hatched without a number."""
    share = 0.0
    if number is not None:
        share = 0.08 + 0.92 * (math.log(number / low) / math.log(high / low) if high > low else 0.0)
    face = tuple(1 - share * (1 - dark) for dark in (0.03, 0.19, 0.42))
    corner = at[0] - 0.5, at[1] - 0.5
    axes.add_patch(
        Rectangle(
            corner,
            1,
            1,
            facecolor=face,
            edgecolor="#888888",
            linewidth=0.4,
            hatch="////" if number is None else None,
            gid=f"cell-{record.case_id}",
        )
    )
    text = record.status if number is None else three_digits(number)
    back = {"facecolor": "white", "edgecolor": "none", "pad": 0.8} if number is None else None
    axes.text(
        *at,
        text,
        ha="center",
        va="center",
        fontsize=TEXT_PT,
        color="white" if share > 0.68 else "black",
        bbox=back,
    )
