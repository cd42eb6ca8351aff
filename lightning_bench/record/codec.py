"""Typed rows and CSV: dataclasses to lines and back, tables of cells, and files that are replaced whole."""

from __future__ import annotations

import csv
import io
import math
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from itertools import repeat
from operator import attrgetter
from pathlib import Path
from types import NoneType
from typing import Any, Generic, Literal, TypeVar, get_args, get_origin, get_type_hints

from lightning_bench.errors import LbenchError, UsageError

LARGEST = 1e100
"""No figure is larger, so that products and ratios of some of them are finite."""

RowT = TypeVar("RowT")
Parse = Callable[[str], Any]


class TornRowError(ValueError):
    """A line is not a whole row, as an interrupted write leaves it."""


class BadRowError(ValueError):
    """The line at `index` cannot be parsed; it is `torn` if it is not a whole row."""

    def __init__(self, index: int, error: ValueError) -> None:
        super().__init__(str(error))
        self.index = index
        self.torn = isinstance(error, TornRowError)


class Schema(Generic[RowT]):
    """The CSV columns of a dataclass with fields of `str`, `Literal`, `int`, `float` and optional numbers.

    A blank cell takes the default of its column. Floats are written with `digits` significant digits.
    `tidy` returns, for the name of a column, what maps its parsed values to those of the row.
    """

    def __init__(
        self, kind: type[RowT], *, digits: int, tidy: Callable[[str], Callable[[Any], Any]] = lambda _: _as_is
    ) -> None:
        self._kind = kind
        self._digits = digits
        self._tidy = tidy
        self._parsers = {name: _parser(hint) for name, hint in _hints(kind).items()}
        self._defaults = {field.name: field.default for field in fields(kind)}  # type: ignore[arg-type]
        self.columns = tuple(self._defaults)
        self._values = attrgetter(*self.columns)
        self.required = tuple(name for name, value in self._defaults.items() if value is MISSING)

    def cells(self, row: RowT) -> dict[str, str]:
        """Return the text of each column of `row`."""
        return {name: format_cell(getattr(row, name), self._digits) for name in self.columns}

    def encode(self, row: RowT) -> bytes:
        """Return `row` as a line of a file, with its newline."""
        return encode_line(self._values(row), self._digits)

    def from_cells(self, cells: Mapping[str, str]) -> RowT:
        """Return the row of these cells; a column that they lack takes its default.

        Raises ValueError, which names the column, for a cell that cannot be parsed or is required and absent.
        """
        if lacking := [name for name in self.required if name not in cells]:
            raise ValueError(f"it has no column {', '.join(lacking)}")
        known = [name for name in cells if name in self._parsers]
        return self._rows({name: self._column(name, [cells[name]]) for name in known}, 1)[0]

    def decode(self, columns: Sequence[str], lines: Sequence[bytes]) -> list[RowT]:
        """Return one row per line; `columns` is the header of their file, unknown names are skipped.

        Raises BadRowError for the first line that cannot be parsed.
        """
        try:
            return self._decode(columns, lines)
        except ValueError:
            for index, line in enumerate(lines):
                try:
                    self._decode(columns, [line])
                except ValueError as error:
                    raise BadRowError(index, error) from None
            raise

    def _decode(self, columns: Sequence[str], lines: Sequence[bytes]) -> list[RowT]:
        """Parse column by column, each distinct cell once: files of 20,000 rows are read in half a second."""
        rows = _split(lines)
        for row in rows:
            if len(row) != len(columns):
                raise TornRowError(f"{len(row)} fields where the header has {len(columns)}")
        parsed: dict[str, list[Any]] = {}
        for name, cells in zip(columns, zip(*rows, strict=True), strict=bool(rows)):
            if name in self._parsers:
                distinct = dict.fromkeys(cells)
                values = dict(zip(distinct, self._column(name, distinct), strict=True))
                parsed[name] = [values[cell] for cell in cells]
        return self._rows(parsed, len(rows))

    def _column(self, name: str, cells: Iterable[str]) -> list[Any]:
        """Return the values of cells of one column."""
        default, parse, tidy = self._defaults[name], self._parsers[name], self._tidy(name)
        blank = default is not MISSING
        try:
            return [default if blank and not cell else tidy(parse(cell)) for cell in cells]
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None

    def _rows(self, parsed: Mapping[str, Sequence[Any]], count: int) -> list[RowT]:
        """Fill the rows without their constructor, which would tidy each of millions of cells again."""
        values = [parsed.get(name) or repeat(self._defaults[name], count) for name in self.columns]
        rows = []
        for line in zip(*values, strict=True):
            row = object.__new__(self._kind)
            vars(row).update(zip(self.columns, line, strict=True))
            rows.append(row)
        return rows


def encode_line(cells: Iterable[object], digits: int = 6) -> bytes:
    """Return one line of CSV, with its newline; None is a blank."""
    text = io.StringIO()
    # The writer takes None for a blank, and the text of what is neither text nor float.
    line = [format_cell(cell, digits) if isinstance(cell, float) else cell for cell in cells]
    csv.writer(text, lineterminator="\n").writerow(line)
    return text.getvalue().encode()


def decode_line(line: bytes) -> list[str]:
    """Return the cells of one line. Raises TornRowError if the line is not a whole row."""
    rows = _split([line])
    return rows[0] if rows else []


def format_cell(value: object, digits: int = 6) -> str:
    """Return the text of a cell: a float with so many significant digits, None as a blank."""
    if value is None:
        return ""
    return format(value, f".{digits}g") if isinstance(value, float) else str(value)


def read_regular(path: Path, advice: str = "") -> bytes:
    """Return the content of a file. Raises UsageError, with `advice` at the end, if it cannot be read.

    A pipe or a device is refused: it may never end.
    """
    try:
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise UsageError(f"cannot read {path}: it is a pipe or a device; give the name of a file{advice}")
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}{advice}") from error


def read_cells(path: Path, advice: str = "") -> list[dict[str, str]]:
    """Return the rows of a CSV as texts by column; no rows if the file does not exist.

    A cell that a short row lacks is a blank. Raises UsageError, with `advice` at the end, if the file
    cannot be read.
    """
    if not path.exists():
        return []
    data = read_regular(path, advice)
    try:
        return list(csv.DictReader(io.StringIO(data.decode("utf-8"), newline=""), restval=""))
    except (csv.Error, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path} ({error}){advice}") from error


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> str:
    """Return a whole CSV with its header; a row's other columns are left out, those it lacks are blank."""
    lines = [encode_line(columns)]
    lines += (encode_line(row.get(name) for name in columns) for row in rows)
    return b"".join(lines).decode()


def replace_file(path: Path, text: str) -> None:
    """Write a file whole or not at all, and make its folder.

    Raises LbenchError if that fails, and the old file stays.
    """
    fresh = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
        fresh.replace(path)
    except OSError as error:
        raise LbenchError(f"cannot write {path}: {error.strerror}; give another --out") from error


def finite(value: Any) -> Any:
    """Return a value of a column, for `tidy`. Raises ValueError for a float beyond `LARGEST` and NaN."""
    if isinstance(value, float) and not (math.isfinite(value) and abs(value) <= LARGEST):
        raise ValueError(f"{value!r} is no figure; allowed: from -{LARGEST:g} to {LARGEST:g}")
    return value


def _as_is(value: Any) -> Any:
    return value


def _hints(kind: type[object]) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}  # type: ignore[arg-type]


def _parser(hint: Any) -> Parse:
    """Return what parses a cell of a field of this type."""
    if hint is str:
        return str
    if get_origin(hint) is Literal:
        return _one_of(get_args(hint))
    kinds = [kind for kind in get_args(hint) or (hint,) if kind is not NoneType]
    if kinds not in ([int], [float]):
        raise TypeError(f"no column has the type {hint}")
    return _whole if kinds == [int] else float


def _one_of(allowed: Sequence[str]) -> Parse:
    def parse(cell: str) -> str:
        if cell not in allowed:
            raise ValueError(f"{cell!r} is none of {', '.join(allowed)}")
        return cell

    return parse


def _whole(cell: str) -> int:
    number = float(cell)
    if not number.is_integer():  # pandas writes a column of integers with blanks as 30.0
        raise ValueError(f"{cell!r} is not an integer")
    return int(number)


def _split(lines: Sequence[bytes]) -> list[list[str]]:
    try:
        rows = list(csv.reader([line.decode() for line in lines], strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise TornRowError(str(error)) from None
    if len(rows) != len(lines):
        raise TornRowError("a quoted cell does not end on its line")
    return rows
