"""The codec: typed rows to CSV and back, cells of other files, and files that are replaced whole."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_bench.comparison.noise import Calibration
from lightning_bench.errors import LbenchError, UsageError
from lightning_bench.machine.ceilings import DeviceCeilings
from lightning_bench.record.codec import (
    BadRowError,
    Schema,
    csv_text,
    decode_line,
    encode_line,
    read_cells,
    replace_file,
)


@dataclass(frozen=True)
class Thing:
    name: str
    kind: Literal["small", "large"]
    count: int
    ratio: float
    seen: int | None = None
    size: float | None = None
    note: str = ""


SCHEMA = Schema(Thing, digits=12)
LINE = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=20)
FINITE = st.floats(allow_nan=False, allow_infinity=False).map(lambda value: float(f"{value:.12g}"))
THINGS = st.builds(
    Thing,
    name=LINE,
    kind=st.sampled_from(["small", "large"]),
    count=st.integers(-(2**50), 2**50),
    ratio=FINITE,
    seen=st.none() | st.integers(0, 2**40),
    size=st.none() | FINITE,
    note=LINE,
)


@given(st.lists(THINGS, max_size=5))
def test_typed_rows_come_back_from_lines_and_from_cells(things: list[Thing]) -> None:
    lines = [SCHEMA.encode(thing) for thing in things]
    assert all(line.count(b"\n") == 1 for line in lines)
    assert SCHEMA.decode(SCHEMA.columns, [line.rstrip(b"\n") for line in lines]) == things
    assert [SCHEMA.from_cells(SCHEMA.cells(thing)) for thing in things] == things


@settings(max_examples=30)
@given(THINGS, st.permutations(range(7)))
def test_columns_may_be_ordered_otherwise_lack_defaults_and_have_others(thing: Thing, order: Any) -> None:
    cells = {"colour": "red"} | SCHEMA.cells(thing)
    columns = ["colour", *(SCHEMA.columns[index] for index in order if SCHEMA.columns[index] != "seen")]
    (row,) = SCHEMA.decode(columns, [encode_line(cells[name] for name in columns).rstrip(b"\n")])
    assert row == Thing(**vars(thing) | {"seen": None})
    assert list(vars(row)) == list(SCHEMA.columns)


@pytest.mark.parametrize(
    ("line", "says", "torn"),
    [
        (b"a,small,1,x,,,", "ratio: could not convert", False),
        (b"a,tiny,1,1,,,", "kind: 'tiny' is none of small, large", False),
        (b"a,small,1.5,1,,,", "count: '1.5' is not an integer", False),
        (b"a,small,,1,,,", "count: could not convert", False),
        (b"a,small,1,1,,", "6 fields where the header has 7", True),
        (b'a,small,1,1,,,"', "unexpected end of data", True),
        (b"\xff,small,1,1,,,", "can't decode", True),
    ],
)
def test_the_first_bad_line_is_found(line: bytes, says: str, torn: bool) -> None:
    good = b"a,small,1,1,,,"
    with pytest.raises(BadRowError, match=says) as caught:
        SCHEMA.decode(SCHEMA.columns, [good, good, line, good, b"worse"])
    assert (caught.value.index, caught.value.torn) == (2, torn)


def test_a_quoted_cell_may_not_join_two_lines() -> None:
    with pytest.raises(BadRowError) as caught:
        SCHEMA.decode(SCHEMA.columns, [b'a,small,1,1,,,"x', b'y"'])
    assert (caught.value.index, caught.value.torn) == (0, True)
    with pytest.raises(ValueError, match="unexpected end of data"):
        decode_line(b'a,"b')


def test_a_field_of_another_type_is_refused() -> None:
    @dataclass
    class Wrong:
        texts: list[str]

    with pytest.raises(TypeError, match="no column has the type"):
        Schema(Wrong, digits=6)


@pytest.mark.parametrize("kind", [Calibration, DeviceCeilings])
def test_calibrations_and_ceilings_have_a_schema(kind: type[Any]) -> None:
    columns = Schema(kind, digits=6).columns
    assert columns == tuple(kind.__dataclass_fields__)


def test_cells_of_a_csv(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    assert read_cells(path) == []
    rows = [{"a": 1.23456789, "b": None, "c": 'é, "'}, {"a": 1, "other": 2}]
    path.write_text(csv_text(["a", "b", "c"], rows))
    assert read_cells(path) == [{"a": "1.23457", "b": "", "c": 'é, "'}, {"a": "1", "b": "", "c": ""}]
    with path.open(newline="") as file:
        assert next(csv.reader(file)) == ["a", "b", "c"]
    path.write_bytes(b"\xff")
    with pytest.raises(UsageError, match=r"cannot read .*x\.csv .*; give another"):
        read_cells(path, advice="; give another")


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "x.csv"
    replace_file(path, "one\n")
    replace_file(path, "two\n")
    assert path.read_text() == "two\n"
    assert [found.name for found in path.parent.iterdir()] == ["x.csv"]

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(LbenchError, match=r"cannot write .*: No space left on device; give another --out"):
        replace_file(path, "three\n")
    assert path.read_text() == "two\n"
