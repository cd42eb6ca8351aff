"""Groups of rows that share a table, and their rows by length and column."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from lightning_bench.record import Record, Row
from lightning_bench.report.collect import ORIGIN, SHAPE, frame_of, rows_in
from lightning_bench.report.tables.origin import origin_lines

# A frame of few columns is quick to take apart.
_COLUMNS = ["provider", "seq_len", "status", "reason", *ORIGIN, *SHAPE, "row"]


@dataclass(frozen=True)
class ColumnRows:
    """The rows of a column, which is one provider from one origin, by length; `first` came first."""

    first: Record
    rows: dict[int, Row]

    @property
    def origin(self) -> tuple[str, str, str]:
        """The values of `ORIGIN`."""
        return self.first.suite, self.first.protocol, self.first.machine_id

    @property
    def records(self) -> dict[int, Record]:
        """The records of `rows`."""
        return {n: row.record for n, row in self.rows.items()}

    @property
    def absent(self) -> bool:
        """Whether the provider took part nowhere: such a one is a note and no column."""
        return all(row.record.status in ("unavailable", "unsupported") for row in self.rows.values())


@dataclass(frozen=True, eq=False)
class RowGroup:
    """The rows of one table: they differ in seq_len and provider, and if `mixed` in `ORIGIN` too."""

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
    def lengths(self) -> list[int]:
        """The sequence lengths, ascending."""
        return sorted(set(self.frame["seq_len"].tolist()))

    @cached_property
    def columns(self) -> list[ColumnRows]:
        """The columns in order of appearance. Of rows of one cell the last counts."""
        names = ["provider", *ORIGIN]
        last = self.frame.groupby([*names, "seq_len"], sort=False)["row"].last()
        firsts = last.groupby(level=names, sort=False).first()
        cells = last.unstack("seq_len").reindex(index=firsts.index, columns=self.lengths)
        columns = []
        for first, line in zip(firsts, cells.to_numpy(), strict=True):
            rows = {n: row for n, row in zip(self.lengths, line, strict=True) if isinstance(row, Row)}
            columns.append(ColumnRows(first.record, rows))
        return columns


def group(rows: Iterable[Row], *, mix: bool = False) -> list[RowGroup]:
    """Return the rows of each table, in order of appearance.

    With `mix`, suites, machines and protocols of one shape share a table.
    """
    keys = [*SHAPE] if mix else [*ORIGIN, *SHAPE]
    groups = frame_of(rows)[_COLUMNS].groupby(keys, sort=False, dropna=False)
    return [RowGroup(frame, mixed=mix and len(frame.drop_duplicates(ORIGIN)) > 1) for _, frame in groups]
