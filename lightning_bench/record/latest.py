"""The latest row of a case; what counts as the same case is a key function, and those in use are here."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import reduce
from typing import Protocol, TypeVar

from lightning_bench.record.row import Record, Row


class HasRecord(Protocol):
    """A value that carries a record, such as a `Row`."""

    @property
    def record(self) -> Record:
        """The record."""


KeyT = TypeVar("KeyT", bound=Hashable)
RowT = TypeVar("RowT", bound=HasRecord)


def case_key(record: Record) -> tuple[str, ...]:
    """Return the case on one machine, whichever suite asked for it and whatever version was measured."""
    return record.case_id, record.metric, record.protocol, record.machine_id


def suite_case_key(record: Record) -> tuple[str, ...]:
    """Return the case of one suite on one machine: the cell of a table."""
    return record.suite, *case_key(record)


def latest(records: Iterable[Record], key: Callable[[Record], Hashable] = case_key) -> list[Record]:
    """Return the latest record of each key, in order of first appearance of the keys.

    Of records of the same second the last in order counts.
    """
    return [row.record for row in latest_by([Row(record, "") for record in records], key).values()]


def latest_by(rows: Iterable[RowT], key: Callable[[Record], KeyT]) -> dict[KeyT, RowT]:
    """Return the latest row of each key of its record, as `latest` does for records."""
    kept: dict[KeyT, RowT] = {}
    for row in rows:
        name = key(row.record)
        kept[name] = _later(kept.get(name, row), row)
    return kept


def last_row(rows: Sequence[RowT]) -> RowT:
    """Return the latest of all rows, whatever their cases. `rows` must not be empty."""
    return reduce(_later, rows)


def _later(before: RowT, row: RowT) -> RowT:
    """Return the later of two rows in order; of the same second, the second."""
    return row if before.record.time_utc <= row.record.time_utc else before
