"""Measurement: the rows that one call has measured, as a DataFrame, as text, as HTML and as a plot."""

from __future__ import annotations

import io
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_bench.api.html import html_of_grid
from lightning_bench.errors import UsageError
from lightning_bench.record import Record, Row
from lightning_bench.report.formats.plain_text import grid_text
from lightning_bench.report.tables.grid import Grid, sweep_grids
from lightning_bench.variant import Variant

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from lightning_bench.run.sweep import Summary

WIDTH = 100
"""Columns of text in `table()`."""


def _shown_in_notebooks(figure: Figure) -> Figure:
    """Return the figure; IPython, which knows only those of pyplot, asks it for a picture."""

    def png() -> bytes:
        with io.BytesIO() as file:
            figure.savefig(file, format="png")
            return file.getvalue()

    vars(figure)["_repr_png_"] = png
    return figure


class Measurement:
    """What one call of `speed`, `memory` or `check` has measured, one row per case.

    `path` is the CSV with the rows and the samples beside it. If no `out` was given it is temporary and goes
    with this object.
    """

    def __init__(self, summary: Summary, path: Path, *, is_kept: bool) -> None:
        self.records: list[Record] = summary.records
        self.path, self._summary, self._is_kept = path, summary, is_kept

    @cached_property
    def df(self) -> pd.DataFrame:
        """The rows as a DataFrame, with units in the names of its columns: see `lightning_bench.load`."""
        from lightning_bench.record.frame import to_frame

        return to_frame(self._rows)

    @property
    def failed(self) -> bool:
        """Whether a case crashed, timed out or was wrong: what makes the exit code of `lbench` 1."""
        return self._summary.failed

    @property
    def samples(self) -> pd.DataFrame:
        """Every sample behind the rows: see `lightning_bench.samples`."""
        from lightning_bench.record.frame import load_samples

        return load_samples([self.path])

    def table(self, *, width: int = WIDTH) -> str:
        """Return the tables that `lbench` prints, as text of at most `width` columns."""
        return "\n".join(grid_text(grid, width) for grid in self._grids)

    def plot(self, **where: Any) -> Figure:
        """Draw the figure of every provider over seq_len: time in ms, or memory in MiB.

        One plot holds one direction, dtype and shape. `where` are columns and their values, such as
        `direction="bwd"`; of several plots that are left the first is drawn. Raise UsageError if none is.
        """
        from lightning_bench.report.collect import DIMS, frame_of, rows_by
        from lightning_bench.report.plots.line_plots import memory_plot, time_plot
        from lightning_bench.report.plots.plot_rows import SHARED

        found = self._where(where)
        draw = {"speed": time_plot, "memory": memory_plot}.get(found[0].record.metric)
        if draw is None:
            raise UsageError("check measures no time and no memory to draw: call speed() or memory()")
        for rows in rows_by(frame_of(found), [*SHARED, *DIMS]).values():
            figure = draw([row.record for row in rows])
            if figure is not None:
                return _shown_in_notebooks(figure)
        raise UsageError("nothing to draw: a line needs figures at two lengths; table() shows all figures")

    def _where(self, where: dict[str, Any]) -> list[Row]:
        rows = self._rows
        for name, value in where.items():
            if not hasattr(rows[0].record, name):
                raise UsageError(f"rows have no column {name}; plots differ in direction, dtype and shape")
            values = list(dict.fromkeys(getattr(row.record, name) for row in rows))
            wanted = _as_in_rows(name, value)
            rows = [row for row in rows if getattr(row.record, name) == wanted]
            if not rows:
                there = ", ".join(str(found) for found in values if found != "") or "none"
                raise UsageError(f"no row has {name} {value!r}; there are {there}")
        return rows

    @property
    def _rows(self) -> list[Row]:
        source = str(self.path) if self._is_kept else ""
        return [Row(record, source) for record in self.records]

    @cached_property
    def _grids(self) -> list[Grid]:
        return sweep_grids(self.records)

    def __repr__(self) -> str:
        return self.table()

    def _repr_html_(self) -> str:
        return "\n".join(map(html_of_grid, self._grids))


def _as_in_rows(name: str, value: Any) -> Any:
    """Return the value as rows have it: layers, ranks and packings can be written in several ways."""
    if name not in ("layer", "rank", "packing") or not isinstance(value, str):
        return value
    try:
        return Variant.of_columns(None, **{"layer": "", "rank": "", "packing": "", name: value}).columns[name]
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from None
