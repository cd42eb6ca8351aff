"""Files of plots: every plot that rows can fill, named after their table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from lightning_bench.record import Row
from lightning_bench.record.discover import file_name
from lightning_bench.report.collect import frame_of, rows_by
from lightning_bench.report.plots import PlotFormat
from lightning_bench.report.plots.heat import heat_map
from lightning_bench.report.plots.line_plots import (
    memory_plot,
    per_token_plot,
    roofline_plot,
    speedup_plot,
    time_plot,
)
from lightning_bench.report.plots.plot_rows import SHARED, check_same
from lightning_bench.report.plots.style import COLUMN, Look, house_style
from lightning_bench.report.tables.figures import title
from lightning_bench.report.tables.groups import group


def save_plot(
    figure: Figure, stem: str | Path, formats: Sequence[PlotFormat], *, title: str = ""
) -> list[Path]:
    """Write `stem.png` and so on, and return the paths. No date is in the files: their bytes repeat."""
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
    formats: Sequence[PlotFormat],
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
    paths: list[Path] = []
    for name, figure in _figures(rows, baseline, look):
        if figure is not None:
            Path(folder).mkdir(parents=True, exist_ok=True)
            stem = file_name(name) + look.suffix
            paths += save_plot(figure, Path(folder) / stem, formats, title=name)
    return paths


def _figures(rows: Sequence[Row], baseline: str | None, look: Look) -> Iterator[tuple[str, Figure | None]]:
    """Yield the plots by name, each drawn only when the one before it is saved: hundreds fill the memory."""
    for table in group(rows):
        records = [row.record for row in table.rows]
        name = title(records[0])
        if records[0].metric == "memory":
            yield f"{name}-memory", memory_plot(records, look=look)
        elif records[0].metric == "speed":
            yield f"{name}-time", time_plot(records, look=look)
            if baseline is not None:
                yield f"{name}-speedup", speedup_plot(records, baseline, look=look)
            yield f"{name}-per_token", per_token_plot(records, look=look)
            yield f"{name}-roofline", roofline_plot(records, look=look)
    for tables in rows_by(frame_of(row for row in rows if row.record.metric == "speed"), SHARED).values():
        records = [row.record for row in tables]
        name = re.sub(r"-qk_dim\d+-v_dim\d+", "", title(records[0]))
        yield f"{name}-heat_floor", heat_map(records, look=look)
        yield f"{name}-heat_ms", heat_map(records, value="ms", look=look)
