"""Result files as one frame: its types, its values, and the same rows as the records."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_bench.errors import UsageError
from lightning_bench.record import COLUMNS, STATUSES, Record, ResultFile, Row
from lightning_bench.record.frame import load, to_frame
from tests.lightning_bench.record.test_record import FIGURES, TEXT_FIELDS, make, records

COUNTS = ["batch", "heads", "seq_len", "head_dim", "value_dim", "samples", "seed", "cpu_threads"]


def check_types(frame: pd.DataFrame) -> None:
    assert list(frame.columns) == [*COLUMNS, "source"]
    assert list(frame["status"].dtype.categories) == list(STATUSES)
    assert {str(frame[name].dtype) for name in COUNTS} == {"Int64"}
    assert {str(frame[name].dtype) for name in FIGURES} == {"float64"}
    texts = [*TEXT_FIELDS, "metric", "protocol", "case_id", "provider", "family", "direction", "source"]
    assert {str(frame[name].dtype) for name in texts} == {"string"}


def record_of(line: pd.Series) -> Record:
    values = {name: None if pd.isna(line[name]) else line[name] for name in COLUMNS}
    return Record(**values)


@settings(max_examples=40)
@given(st.lists(records(), max_size=4))
def test_a_frame_equals_its_records(rows: list[Record]) -> None:
    frame = to_frame(Row(record, "a.csv") for record in rows)
    check_types(frame)
    assert [record_of(line) for _, line in frame.iterrows()] == rows
    assert list(frame["source"]) == ["a.csv"] * len(rows)


def test_a_file_becomes_a_frame_of_the_same_types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [make(samples=30, median_ms=0.25), make(status="oom", case_id="b", reason='said "no", twice')]
    for name in ("a.csv", "folder/b.csv"):
        with ResultFile(name) as file:
            for record in rows:
                file.append(record)
    frame = load(["a.csv", "folder", "a.csv"])
    check_types(frame)
    assert [record_of(line) for _, line in frame.iterrows()] == rows * 2
    assert list(frame["source"]) == ["a.csv"] * 2 + ["folder/b.csv"] * 2
    assert math.isnan(frame["median_ms"].iloc[1])
    assert frame.groupby("status", observed=True).size().to_dict() == {"ok": 2, "oom": 2}
    assert frame["seq_len"].sum() == 4 * 64
    assert np.array_equal(frame.groupby("case_id", sort=False).indices["b"], [1, 3])


def test_no_rows_have_the_types_too() -> None:
    check_types(to_frame([]))


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UsageError, match="is not a result file of lbench"):
        load([tmp_path / "notes.csv"])
    with pytest.raises(UsageError, match="there is no such file or folder"):
        load([tmp_path / "nowhere"])
    assert load([tmp_path]).empty


def test_the_frame_needs_no_torch() -> None:
    code = "import sys, lightning_bench.record.frame; print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"
