"""Rows of layers, ranks, kv heads and packed documents; CSVs without their columns are read as before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lightning_bench.case import Shape
from lightning_bench.errors import LbenchError
from lightning_bench.record import COLUMNS, ResultFile, read_records
from lightning_bench.record.row import VARIANT
from lightning_bench.variant import PLAIN, Part, Variant
from tests.lightning_bench.record.test_record import make

FULL = Variant(2, Part(79, 80), Part(7, 8), (98304, *[1024] * 31))


def test_a_row_has_the_shape_of_its_case_after_a_trip_through_a_file(tmp_path: Path) -> None:
    record = make(heads=8, seq_len=130048, **FULL.columns)
    with ResultFile(tmp_path / "rows.csv") as file:
        file.append(record)
        file.append(make())
    first, second = read_records(tmp_path / "rows.csv")
    assert first == record
    assert first.shape == Shape(1, 8, 130048, 32, 32, "fp32", "cpu", FULL)
    assert second.shape.variant == PLAIN


def test_a_row_has_the_ranks_of_its_case(tmp_path: Path) -> None:
    record = make(ranks=2)
    with ResultFile(tmp_path / "rows.csv") as file:
        file.append(record)
        file.append(make())
    first, second = read_records(tmp_path / "rows.csv")
    assert first == record
    assert first.shape == replace(make().shape, ranks=2)
    assert (second.ranks, second.shape.ranks) == (None, 0)


def test_a_file_without_the_columns_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    with ResultFile(path) as file:
        file.append(make())
    kept = [index for index, name in enumerate(COLUMNS) if name not in VARIANT]
    lines = [line.split(",") for line in path.read_text().splitlines()]
    path.write_text("".join(",".join(line[at] for at in kept) + "\n" for line in lines))
    (record,) = read_records(path)
    assert record == make()


@pytest.mark.parametrize(("column", "text"), [("layer", "9 of 8"), ("rank", "last"), ("packing", "many")])
def test_a_text_that_says_nothing_is_an_error_with_its_column(tmp_path: Path, column: str, text: str) -> None:
    path = tmp_path / "rows.csv"
    head = "metric,protocol,status,case_id,provider,family,direction,dtype,batch,heads,seq_len"
    row = "speed,lbench,ok,c,p,softmax,fwd,fp32,1,2,64"
    path.write_text(f"{head},head_dim,value_dim,device,{column}\n{row},32,32,cpu,{text}\n")
    with pytest.raises(LbenchError, match=f"{column}: '{text}' is "):
        read_records(path)
