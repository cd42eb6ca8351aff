"""Grids as CSV, one line per cell, for a notebook or a spreadsheet."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pandas as pd

from lightning_bench.report.tables.grid import Grid, GridCell, GridColumn
from lightning_bench.report.tables.grid_lines import LINE, GridLine

_FORMULA = re.compile(r"\s*[=+\-@]")
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?(e[+-]?\d+)?( ?%)?")
_OF_ROW = (
    "status",
    "reason",
    "protocol",
    "device_name",
    "machine_id",
    "provider_version",
    "harness_commit",
)
HEADER = (
    "title",
    "kind",
    "unit",
    "seq_len",
    *LINE,
    "provider",
    "column",
    "family",
    "value",
    "text",
    *_OF_ROW,
    "source",
)


def table_csv(grids: Iterable[Grid]) -> str:
    """Return every cell of every table with what its row says of it. A blank `value` has a reason."""
    lines = [
        _line(grid, line, column, cell)
        for grid in (each.upright for each in grids)
        for line, cells in zip(grid.lines, grid.cells, strict=True)
        for column, cell in zip(grid.columns, cells, strict=True)
    ]
    return pd.DataFrame(lines, columns=list(HEADER)).to_csv(index=False, lineterminator="\n")


def _line(grid: Grid, at: GridLine, column: GridColumn, cell: GridCell) -> dict[str, object]:
    line: dict[str, object] = {
        "title": grid.title,
        "kind": grid.kind,
        "unit": grid.unit,
        "seq_len": at.n,
        **at.columns,
        "provider": column.provider,
        "column": column.over,
        "family": column.family,
        "value": "" if cell.value is None else format(cell.value, ".12g"),
        "text": cell.text,
    }
    if cell.row is not None:
        line |= {name: getattr(cell.row.record, name) for name in _OF_ROW}
        line["source"] = cell.row.source
    return {name: no_formula(cell) if isinstance(cell, str) else cell for name, cell in line.items()}


def no_formula(text: str) -> str:
    """Return a cell that no spreadsheet computes: what would be a formula has an apostrophe before it."""
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text
