"""Exports: every row and figure is there, as the other side's published schema wants it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from lightning_bench.exchange.exports import EXPORTS
from lightning_bench.record import Record, read_records
from lightning_bench.record.row import COLUMNS
from tests.support.paths import ROOT
from tests.support.report_rows import STORY

DATA = Path(__file__).parent / "data"
RESULTS = ROOT / "results" / "h200"
ROWS = read_records(RESULTS / "paper-speed.csv") + read_records(RESULTS / "paper-memory.csv")


def test_json_has_every_column_of_every_row() -> None:
    rows = json.loads(EXPORTS["json"].encode(ROWS))
    assert [list(row) for row in rows] == [list(COLUMNS)] * len(ROWS)
    assert [Record(**row) for row in rows] == ROWS


def test_json_steers_no_terminal_and_no_runner() -> None:
    text = EXPORTS["json"].encode([replace(STORY, reason="\x7f ##[error] ::error:: é \u202e")]).decode()
    assert text.isascii()
    assert "##[" not in text
    assert "\x7f" not in text


def test_parquet_reads_back_with_types_and_meanings() -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow, the extra `parquet`, is not installed")
    import pyarrow as pa

    table = parquet.read_table(pa.BufferReader(EXPORTS["parquet"].encode(ROWS)))
    assert table.column_names == list(COLUMNS)
    assert [Record(**row) for row in table.to_pylist()] == ROWS
    assert str(table.schema.field("seq_len").type) == "int64"
    assert str(table.schema.field("median_ms").type) == "double"
    assert str(table.schema.field("processes").type) == "int64"
    assert table.schema.field("power_w").metadata == {b"description": COLUMNS["power_w"].encode()}


def test_bencher_fits_its_schema_and_is_in_nanoseconds() -> None:
    data = json.loads(EXPORTS["bencher"].encode(ROWS))
    jsonschema.validate(data, json.loads((DATA / "bencher-bmf-schema.json").read_text()))
    worked = [record for record in ROWS if record.worked]
    assert set(data) == {record.case_id for record in worked}
    (timed,) = [
        record
        for record in worked
        if record.case_id == "lightning2/fwd/b4-h32-n8192-d128-e128-bf16-cuda" and record.metric == "speed"
    ]
    latency = data[timed.case_id]["latency"]
    assert latency["value"] == pytest.approx(1e6 * (timed.median_ms or math.nan))
    assert latency["lower_value"] <= latency["value"] <= latency["upper_value"]
    assert {"extra-mib", "tflops"} <= data[timed.case_id].keys(), "figures of all metrics of a case"


def test_bencher_keeps_machines_apart_and_takes_the_latest() -> None:
    early, late = (
        replace(STORY, case_id="c", time_utc=time, machine_id="m") for time in ("2026-01-01", "2026-01-02")
    )
    rows = [replace(late, median_ms=2.0), replace(early, median_ms=1.0)]
    assert json.loads(EXPORTS["bencher"].encode(rows)) == {"c": {"latency": {"value": 2e6}}}
    rows.append(replace(late, median_ms=3.0, machine_id="other"))
    assert set(json.loads(EXPORTS["bencher"].encode(rows))) == {"c m lbench", "c other lbench"}


def test_pytorch_lines_fit_the_published_schema() -> None:
    fits = v3_schema()
    lines = [json.loads(line) for line in EXPORTS["pytorch"].encode(ROWS).splitlines()]
    for line in lines:
        fits(line)
    names = {(line["model"]["extra_info"]["case_id"], line["metric"]["name"]) for line in lines}
    worked = [record for record in ROWS if record.worked]
    assert {(record.case_id, "median_ms") for record in worked if record.median_ms} <= names
    assert {(record.case_id, "extra_mib") for record in worked if record.extra_mib is not None} <= names
    first = next(record for record in worked if record.median_ms)
    assert lines[0]["metric"] == {"name": "median_ms", "benchmark_values": [first.median_ms]}
    assert lines[0]["runners"][0]["gpu_info"] == "NVIDIA H200"


@pytest.mark.parametrize(
    "wrong",
    [
        {"surprise": 1},
        {"timestamp": "now"},
        {"metric": {"name": 3}},
        {"runners": {}},
        {"model": {"origins": "x"}},
    ],
)
def test_the_check_of_the_schema_finds_what_is_wrong(wrong: dict[str, Any]) -> None:
    with pytest.raises(AssertionError):
        v3_schema()(wrong)


def test_rows_without_a_figure_have_no_line() -> None:
    rows = [replace(STORY, status="crashed"), replace(STORY, status="ok")]
    assert EXPORTS["pytorch"].encode(rows) == b""
    assert json.loads(EXPORTS["bencher"].encode(rows)) == {}


def v3_schema() -> Callable[[dict[str, Any]], None]:
    """Return a check that an object fits the columns of the table, as ClickHouse reads JSON lines."""
    text = re.sub(r"--[^\n]*", "", (DATA / "pytorch-v3-schema.sql").read_text())
    body = text.partition("(")[2].rpartition(") ENGINE")[0]
    columns = dict(_column(part) for part in _parts(body))

    def check(value: dict[str, Any]) -> None:
        for name, each in value.items():
            assert name in columns, name
            _fits(each, columns[name])

    return check


def _column(text: str) -> tuple[str, str]:
    name, kind = text.strip().split(None, 1)
    return name.strip("`"), re.sub(r"\s*DEFAULT .*", "", kind).strip()


def _parts(text: str) -> list[str]:
    parts, depth = [""], 0
    for letter in text:
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part for part in parts if part.strip()]


def _fits(value: Any, kind: str) -> None:
    outer, _, inner = kind.partition("(")
    parts = _parts(inner.rpartition(")")[0])
    match outer.strip():
        case "String":
            assert isinstance(value, str), (value, kind)
        case "UInt32" | "UInt64":
            assert isinstance(value, int), (value, kind)
            assert 0 <= value < 2 ** int(kind[4:]), (value, kind)
        case "Float32":
            assert isinstance(value, int | float), (value, kind)
        case "Array":
            assert isinstance(value, list), (value, kind)
            for each in value:
                _fits(each, parts[0].strip())
        case "Map":
            assert isinstance(value, dict), (value, kind)
            for key, each in value.items():
                _fits(key, parts[0].strip())
                _fits(each, parts[1].strip())
        case "Tuple":
            assert isinstance(value, dict), (value, kind)
            fields = dict(_column(part) for part in parts)
            for key, each in value.items():
                assert key in fields, key
                _fits(each, fields[key])
        case _:
            raise AssertionError(kind)


class TestCommand:
    def test_formats_on_stdout_and_in_files(self, lbench: Any, tmp_path: Path) -> None:
        source = RESULTS / "paper-memory.csv"
        shown = lbench("export", source, "--to", "bencher")
        out = tmp_path / "new" / "bmf.json"
        written = lbench("export", source, "--to", "bencher", "--out", out)
        assert (shown.code, written.code, written.out) == (0, 0, "")
        assert json.loads(shown.out) == json.loads(out.read_text())
        assert "rows without a figure are left out" in written.err
        rows = json.loads(lbench("export", source).out)
        assert rows == [asdict(record) for record in read_records(source)]

    def test_the_name_of_the_file_chooses_parquet(self, lbench: Any, tmp_path: Path) -> None:
        pytest.importorskip("pyarrow", reason="pyarrow, the extra `parquet`, is not installed")
        table = tmp_path / "rows.parquet"
        assert lbench("export", RESULTS / "paper-memory.csv", "--out", table).code == 0
        assert table.read_bytes()[:4] == b"PAR1"

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["--to", "xml"], "--to 'xml' is not known; allowed: json, parquet, pytorch, bencher"),
            (["--to", "parquet"], "--to parquet is not text: give --out FILE"),
            (["--metric", "check"], "there is no row to export"),
            (["--out", "/dev/null/x.json"], "is a file: give the name of a folder"),
        ],
    )
    def test_bad_usage(self, lbench: Any, arguments: list[str], said: str) -> None:
        ran = lbench("export", RESULTS / "paper-memory.csv", *arguments)
        assert (ran.code, ran.out) == (2, "")
        assert said in ran.err
