"""Record: what a row holds, and how rows are read back, picked and joined."""

import dataclasses
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_bench.errors import UsageError
from lightning_bench.record import (
    COLUMNS,
    FAILED,
    STATUSES,
    Record,
    ResultFile,
    Status,
    latest,
    read_records,
)


def make(**changes: Any) -> Record:
    values: dict[str, Any] = {
        "metric": "speed",
        "protocol": "lbench",
        "status": "ok",
        "case_id": "torch/fwd/b1-h2-n64-d32-e32-fp32-cpu",
        "provider": "torch",
        "family": "linear_decay",
        "layout": "bhnd",
        "provider_version": "torch 2.13.0",
        "direction": "fwd",
        "dtype": "fp32",
        "batch": 1,
        "heads": 2,
        "seq_len": 64,
        "head_dim": 32,
        "value_dim": 32,
        "device": "cpu",
        "machine_id": "abcdef012345",
        "time_utc": "2025-01-02T03:04:05Z",
    }
    return Record(**(values | changes))


def write(path: Path, *records: Record) -> Path:
    with ResultFile(path) as file:
        for record in records:
            file.append(record)
    return path


TEXT_FIELDS = [field.name for field in dataclasses.fields(Record) if field.default == ""]
WHOLE = [name for name, hint in get_type_hints(Record).items() if hint in (int, int | None)]
FIGURES = [name for name, hint in get_type_hints(Record).items() if hint == float | None]


@st.composite
def records(draw: st.DrawFn) -> Record:
    texts = st.text() | st.text(alphabet=',"\n\r\t; aé漢🙂\x00\x85\u2028\ud800')
    changes: dict[str, Any] = {
        name: draw(texts) for name in ("reason", "provider_config", "label", "throttle")
    }
    changes |= {
        name: draw(st.none() | st.floats() | st.integers())
        for name in draw(st.sets(st.sampled_from(FIGURES)))
    }
    changes["samples"] = draw(st.none() | st.integers(0, 2**40))
    changes["status"] = draw(st.sampled_from(STATUSES))
    changes["seq_len"] = draw(st.integers(1, 2**31 - 1))
    return make(**changes)


class TestRoundTrip:
    @pytest.mark.slow
    @given(st.lists(records(), max_size=4))
    def test_rows_read_back_as_they_were_written(self, rows: list[Record]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = write(Path(folder) / "r.csv", *rows)
            assert read_records(path) == rows
            with ResultFile(path) as again:
                assert again.records == rows
                assert again.repaired is None
            lines = path.read_bytes().decode().split("\n")
            assert len(lines) == len(rows) + 2
            assert len(path.read_text().splitlines()) == len(rows) + 1  # nor any other line separator

    @given(records())
    def test_a_record_built_from_a_record_is_the_same(self, record: Record) -> None:
        assert Record(**dataclasses.asdict(record)) == record

    @given(records(), records())
    def test_what_is_changed_in_a_record_is_tidied_as_in_a_new_one(self, one: Record, two: Record) -> None:
        changes = {**dataclasses.asdict(two), "reason": f"two\n{two.reason}", "median_ms": float("nan")}
        before = dataclasses.asdict(one)
        assert one.changed(changes) == Record(**changes)
        assert one.changed({"reason": "a\nb"}) == dataclasses.replace(one, reason="a b")
        assert dataclasses.asdict(one) == before

    def test_text_becomes_one_line_and_keeps_its_characters(self) -> None:
        record = make(reason='first "line", über\nsecond\r\n', provider_config="BLOCK=64\nwarps=4")
        assert record.reason == 'first "line", über second'
        assert record.provider_config == "BLOCK=64 warps=4"

    def test_a_text_too_long_for_a_csv_reader_is_clipped(self, tmp_path: Path) -> None:
        path = write(tmp_path / "r.csv", make(reason="x" * 300_000))
        assert read_records(path)[0].reason == "x" * 2000
        ends_in_a_space = make(reason="x" * 1999 + " y")
        assert Record(**dataclasses.asdict(ends_in_a_space)) == ends_in_a_space

    def test_six_decimals_stay_exact(self, tmp_path: Path) -> None:
        path = write(tmp_path / "r.csv", make(extra_mib=64.000488, median_ms=0.1 + 0.2))
        assert ",64.000488," in path.read_text()
        assert read_records(path)[0].extra_mib == 64.000488
        assert ",0.3," in path.read_text()

    @pytest.mark.parametrize("figure", [float("nan"), float("inf"), -float("inf"), None])
    def test_what_is_no_number_is_a_blank(self, tmp_path: Path, figure: float | None) -> None:
        path = write(tmp_path / "r.csv", make(median_ms=figure))
        assert read_records(path)[0].median_ms is None
        row = path.read_text().splitlines()[1].split(",")
        assert not {"none", "nan", "inf", "-inf"} & {cell.lower() for cell in row}

    def test_numpy_numbers_are_taken(self) -> None:
        import numpy as np

        record = make(median_ms=np.float32(0.5), samples=np.int64(7), power_w=300)
        assert (record.median_ms, record.samples, record.power_w) == (0.5, 7, 300.0)
        assert {type(record.median_ms), type(record.samples), type(record.power_w)} == {float, int}

    def test_a_broken_count_is_refused(self) -> None:
        with pytest.raises(TypeError):
            make(samples=30.5)


class TestColumns:
    def test_every_field_has_a_meaning_in_order(self) -> None:
        assert list(COLUMNS) == [field.name for field in dataclasses.fields(Record)]
        assert all(COLUMNS.values())
        assert list(COLUMNS)[:6] == ["suite", "metric", "protocol", "status", "reason", "case_id"]
        assert list(COLUMNS)[-4:] == ["executor", "machine_id", "run_utc", "time_utc"]

    @pytest.mark.parametrize(
        ("ending", "unit"), [("_ms", ", ms"), ("_mib", "MiB"), ("tflops", "TFLOP/s"), ("gbps", "GB/s")]
    )
    def test_a_meaning_gives_the_unit(self, ending: str, unit: str) -> None:
        named = [meaning for name, meaning in COLUMNS.items() if name.endswith(ending)]
        assert named
        assert all(unit in meaning for meaning in named)

    def test_statuses(self) -> None:
        assert get_args(Status) == STATUSES
        assert set(STATUSES) > FAILED == {"crashed", "timeout", "wrong"}

    def test_key(self) -> None:
        assert make().key == (
            "speed",
            "lbench",
            "torch/fwd/b1-h2-n64-d32-e32-fp32-cpu",
            "torch 2.13.0",
            "abcdef012345",
        )
        assert make(reason="other", median_ms=1.0).key == make().key
        assert make(provider_version="torch 2.14.0").key != make().key


class TestPandas:
    def test_reads_with_no_arguments_and_numbers_are_numbers(self, tmp_path: Path) -> None:
        full = {name: 1.5 + number for number, name in enumerate(FIGURES)}
        path = write(
            tmp_path / "r.csv",
            make(samples=30, **full),
            make(status="crashed", reason='said "no", twice\nand more'),
        )
        frame = pd.read_csv(path)
        assert list(frame.columns) == list(COLUMNS)
        assert len(frame) == 2
        for name in [*FIGURES, *WHOLE]:
            assert pd.api.types.is_numeric_dtype(frame[name]), name
        assert frame["seq_len"].dtype == "int64"
        assert frame["median_ms"].isna().tolist() == [False, True]
        assert frame["extra_mib"][0] == full["extra_mib"]
        assert frame["reason"][1] == 'said "no", twice and more'

    def test_what_pandas_writes_again_is_read(self, tmp_path: Path) -> None:
        rows = [make(samples=30, median_ms=0.25), make(status="oom", case_id="b")]
        path = write(tmp_path / "r.csv", *rows)
        pd.read_csv(path).to_csv(path, index=False)
        assert "30.0" in path.read_text()
        assert read_records(path) == rows


class TestReading:
    def test_older_and_newer_files(self, tmp_path: Path) -> None:
        path = write(tmp_path / "r.csv", make(median_ms=2.5, throttle="hot"))
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        frame.drop(columns=["throttle", "p20_ms", "suite"]).assign(later="7").to_csv(path, index=False)
        assert read_records(path) == [make(median_ms=2.5)]

    def test_a_spreadsheet_may_have_saved_it(self, tmp_path: Path) -> None:
        rows = [make(suite="s", reason="é"), make(case_id="b")]
        path = write(tmp_path / "r.csv", *rows)
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
        assert read_records(path) == rows

    def test_no_rows_are_no_records(self, tmp_path: Path) -> None:
        assert read_records(write(tmp_path / "r.csv")) == []

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            (b"", "is empty"),
            (b"\n\n", "is empty"),
            (b"a,b\n1,2\n", "is not a result file of lbench"),
            (b"\x89PNG\r\n\x1a\n\x00\xff", "is not a result file of lbench"),
            (b"case_id,metric\nx,speed\n", "no column protocol, status"),
        ],
    )
    def test_other_files_are_refused(self, tmp_path: Path, content: bytes, says: str) -> None:
        path = tmp_path / "r.csv"
        path.write_bytes(content)
        with pytest.raises(UsageError, match=says) as caught:
            read_records(path)
        assert str(path) in str(caught.value)

    def test_a_missing_file_or_a_folder(self, tmp_path: Path) -> None:
        for path in (tmp_path / "none.csv", tmp_path):
            with pytest.raises(UsageError, match="cannot read"):
                read_records(path)

    @pytest.mark.parametrize(
        ("old", "new", "says"),
        [
            (b",ok,", b",fine,", "status: 'fine' is none of ok"),
            (b",64,", b",,", "seq_len"),
            (b",64,", b",64.5,", "seq_len: '64.5' is not an integer"),
            (b",64,", b",inf,", "seq_len"),
            (b",2.5,", b",fast,", "median_ms"),
            (b",64,", b",64,64,", "fields where the header has"),
            (b",64,", b',"64,', "not a row"),
            (b",64,", b",\xff,", "not a row"),
            (b",2025-", b',"2025-', "not a row"),
        ],
    )
    def test_a_row_that_cannot_be_parsed_is_named(
        self, tmp_path: Path, old: bytes, new: bytes, says: str
    ) -> None:
        path = write(tmp_path / "r.csv", make(), make(median_ms=2.5), make())
        header, first, second, *others = path.read_bytes().split(b"\n")
        path.write_bytes(b"\n".join([header, first, second.replace(old, new, 1), *others]))
        with pytest.raises(UsageError, match=says) as caught:
            read_records(path)
        assert f"{path}, line 3" in str(caught.value)
        with pytest.raises(UsageError, match="line 3"):
            ResultFile(path)


class TestLatest:
    def test_the_last_row_of_a_case_wins_in_its_first_place(self) -> None:
        old, other, new = make(median_ms=1.0, provider_version="1"), make(case_id="b"), make(median_ms=2.0)
        assert latest([old, other, new]) == [new, other]
        old, new = make(time_utc="2025-01-01T00:00:00Z"), make(time_utc="2025-02-01T00:00:00Z", median_ms=1.0)
        assert latest([new, old]) == [new]

    @pytest.mark.parametrize(
        "change", [{"metric": "memory"}, {"protocol": "paper"}, {"machine_id": "ffff"}, {"case_id": "b"}]
    )
    def test_other_cases_stay(self, change: dict[str, str]) -> None:
        assert latest([make(), make(**change)]) == [make(), make(**change)]


def test_importing_is_light() -> None:
    code = (
        "import sys, lightning_bench.record, lightning_bench.machine;"
        "print([name for name in ('torch', 'pandas', 'matplotlib', 'triton') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
