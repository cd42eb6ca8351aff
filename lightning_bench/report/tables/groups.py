"""Groups of rows that share a table, and their rows by line and column."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from lightning_bench.record import Record, Row
from lightning_bench.report.collect import ORIGIN, SHAPE, frame_of, rows_in
from lightning_bench.report.tables.figures import model_of
from lightning_bench.report.tables.grid_lines import LINE, GridLine
from lightning_bench.report.tables.origin import origin_lines

# A frame of few columns is quick to take apart.
_COLUMNS = ["provider", "seq_len", "status", "reason", *ORIGIN, *SHAPE, "row"]


@dataclass(frozen=True)
class ColumnRows:
    """The rows of a column, which is one provider from one origin, by line; `first` came first."""

    first: Record
    rows: dict[GridLine, Row]

    @property
    def origin(self) -> tuple[str, str, str]:
        """The values of `ORIGIN`."""
        return self.first.suite, self.first.protocol, self.first.machine_id

    @property
    def records(self) -> dict[GridLine, Record]:
        """The records of `rows`."""
        return {line: row.record for line, row in self.rows.items()}

    @property
    def absent(self) -> bool:
        """Whether the provider took part nowhere: such a one is a note and no column."""
        return all(row.record.status in ("unavailable", "unsupported") for row in self.rows.values())


@dataclass(frozen=True, eq=False)
class RowGroup:
    """The rows of one table: they differ in line and provider, and if `mixed` in `ORIGIN` too."""

    frame: pd.DataFrame
    mixed: bool = False

    @property
    def rows(self) -> list[Row]:
        """The rows in order."""
        return rows_in(self.frame)

    @cached_property
    def origin(self) -> list[str]:
        """What is under the table: see `origin_lines`."""
        return origin_lines(self.frame)

    @cached_property
    def lines(self) -> list[GridLine]:
        """The lines, ascending."""
        return sorted(set(self.frame["line"].tolist()))

    @cached_property
    def columns(self) -> list[ColumnRows]:
        """The columns in order of appearance. Of rows of one cell the last counts."""
        names = ["provider", *ORIGIN]
        places = {line: at for at, line in enumerate(self.lines)}
        placed = self.frame.assign(at=self.frame["line"].map(places))
        last = placed.groupby([*names, "at"], sort=False)["row"].last()
        firsts = last.groupby(level=names, sort=False).first()
        cells = last.unstack("at").reindex(index=firsts.index, columns=range(len(places)))
        columns = []
        for first, found in zip(firsts, cells.to_numpy(), strict=True):
            rows = {line: row for line, row in zip(self.lines, found, strict=True) if isinstance(row, Row)}
            columns.append(ColumnRows(first.record, rows))
        return columns


def group(rows: Iterable[Row], *, mix: bool = False) -> list[RowGroup]:
    """Return the rows of each table, in order of appearance.

    With `mix`, suites, machines and protocols of one shape share a table.
    """
    shape = [column for column in SHAPE if column not in LINE]
    keys = shape if mix else [*ORIGIN, *shape]
    rows = list(rows)
    lines = pd.Series([GridLine.of(row.record) for row in rows], dtype=object)
    frame = frame_of(rows)[_COLUMNS].assign(line=lines)
    # In training the batch follows from the length: lines of one table differ in both. Of generation a line
    # has it, and both architectures of one size share a table.
    frame["batch"] = frame["batch"].where(~frame["metric"].isin(["train", "generate"]), 0)
    frame["model"] = [model_of(row.record) for row in rows]
    groups = frame.groupby(keys, sort=False, dropna=False)
    return [RowGroup(frame, mixed=mix and len(frame.drop_duplicates(ORIGIN)) > 1) for _, frame in groups]
