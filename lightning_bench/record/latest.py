"""The latest row of a case; what counts as the same case is a key function, and those in use are here."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
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
    """Return the latest row of each key of its record, as `latest` does for records alone."""
    kept: dict[KeyT, RowT] = {}
    for row in rows:
        name = key(row.record)
        if name not in kept or kept[name].record.time_utc <= row.record.time_utc:
            kept[name] = row
    return kept


def last_row(rows: Sequence[RowT]) -> RowT:
    """Return the latest of all rows, whatever their cases. `rows` must not be empty."""
    return latest_by(rows, lambda _: "")[""]
