"""Read result files: the records of one file, and the rows of files and folders."""

from __future__ import annotations

import codecs
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_bench.errors import UsageError
from lightning_bench.record.codec import BadRowError, TornRowError, decode_line, read_regular
from lightning_bench.record.discover import result_files, shown_path
from lightning_bench.record.row import SCHEMA, Record, Row


@dataclass(frozen=True)
class ResultRows:
    """The rows of some result files; named files `without_rows`; `skipped` and `other` as in `FoundFiles`."""

    rows: list[Row]
    without_rows: list[Path]
    skipped: list[str]
    other: list[str]


def read_rows(paths: Sequence[str | Path], *, set_aside: bool = False) -> ResultRows:
    """Return the rows of files and of folders with all below them, each file once, in order of the paths.

    A folder's CSVs of another kind are skipped, and those that `--fresh` set aside left out unless
    `set_aside`. Raises UsageError for a path that does not exist, for a named file that is no result file
    and for a row that cannot be parsed.
    """
    found = result_files(paths, set_aside=set_aside)
    rows: list[Row] = []
    without_rows: list[Path] = []
    for path in found.files:
        records = read_records(path)
        if not records and path in found.named:
            without_rows.append(path)
        source = shown_path(path)
        rows += (Row(record, source) for record in records)
    return ResultRows(rows, without_rows, found.skipped, found.other)


def read_records(path: str | Path) -> list[Record]:
    """Read a CSV of this or another version: absent columns take their defaults, unknown ones are skipped.

    Raises UsageError if the file is no CSV of ours or is empty, or if a row, then named, cannot be parsed.
    """
    path = Path(path)
    data = read_regular(path)
    if not data.strip():
        raise UsageError(f"{path} is empty: no sweep has written a row to it")
    head, *lines = data.split(b"\n")
    columns = read_header(path, head)
    if lacking := ", ".join(name for name in SCHEMA.required if name not in columns):
        raise UsageError(f"{path} is not a result file of lbench: it has no column {lacking}")
    numbered = [(number, line) for number, line in enumerate(lines, start=2) if line.strip()]
    try:
        return SCHEMA.decode(columns, [line for _, line in numbered])
    except BadRowError as error:
        raise bad_row(path, numbered[error.index][0], error) from None


def read_header(path: Path, head: bytes) -> list[str]:
    """Return the columns of a file's first line. Raises UsageError if it is no header of a result file."""
    with contextlib.suppress(TornRowError):
        if "case_id" in (columns := decode_line(head.removeprefix(codecs.BOM_UTF8))):
            return columns
    raise UsageError(f"{path} is not a result file of lbench: give the name of one that is")


def bad_row(path: Path, number: int, error: ValueError) -> UsageError:
    """Return the error for a line that cannot be parsed; lines are numbered from 1, the header's number."""
    return UsageError(f"{path}, line {number}: not a row of lbench ({error}); mend or remove that line")
