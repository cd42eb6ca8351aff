"""Grids as CSV, a line a cell, for a notebook or a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

from lightning_bench.report.tables.grid import Grid

HEADER = (
    "title",
    "kind",
    "unit",
    "seq_len",
    "provider",
    "column",
    "family",
    "value",
    "text",
    "status",
    "reason",
    "protocol",
    "device_name",
    "machine_id",
    "provider_version",
    "harness_commit",
    "source",
)


def table_csv(grids: Iterable[Grid]) -> str:
    """Every cell of every table with what its row says of it; a blank ``value`` has its reason beside it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    for grid in grids:
        for n, cells in zip(grid.lengths, grid.cells, strict=True):
            for column, cell in zip(grid.columns, cells, strict=True):
                row = cell.row
                r = row.record if row else None
                writer.writerow(
                    [
                        grid.title,
                        grid.kind,
                        grid.unit,
                        n,
                        column.provider,
                        column.over,
                        column.family,
                        "" if cell.value is None else format(cell.value, ".12g"),
                        cell.text,
                        *((r.status, r.reason, r.protocol, r.device_name, r.machine_id) if r else [""] * 5),
                        *((r.provider_version, r.harness_commit) if r else [""] * 2),
                        row.source if row else "",
                    ]
                )
    return text.getvalue()
