"""ResultFile: the samples beside the rows, and beginning anew without losing what was there."""

import json
from pathlib import Path
from typing import Any

import pytest

from lightning_bench.errors import LbenchError, UsageError
from lightning_bench.record import Record, ResultFile, read_records
from lightning_bench.record.samples import (
    SampleFile,
    SampleLine,
    encode_samples,
    read_samples,
    sample_fields,
    sidecar_path,
)


def make(case: str = "a", **changes: Any) -> Record:
    values: dict[str, Any] = {
        "metric": "speed",
        "protocol": "lbench",
        "status": "ok",
        "case_id": case,
        "provider": "p",
        "family": "linear",
        "direction": "fwd",
        "dtype": "fp32",
        "batch": 1,
        "heads": 1,
        "seq_len": 1,
        "head_dim": 1,
        "value_dim": 1,
        "device": "cpu",
    }
    return Record(**(values | changes))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "folder" / "speed.csv"


class TestSamples:
    def test_a_line_beside_the_row(self, path: Path) -> None:
        import numpy as np

        record = make("a", provider_version="1", machine_id="m")
        with ResultFile(path) as file:
            file.append_samples(
                record, {"ms": [0.123456789, 3, float("nan")], "call_ms": np.float32([0.5]), "note": "é\n"}
            )
            assert file.samples_path == path.with_name("speed.samples.jsonl")
            (line,) = file.samples_path.read_text().splitlines()
        assert json.loads(line) == {
            "case_id": "a",
            "metric": "speed",
            "protocol": "lbench",
            "provider_version": "1",
            "machine_id": "m",
            "ms": [0.123457, 3, None],
            "call_ms": [0.5],
            "note": "é\n",
        }

    def test_a_sidecar_is_created_only_when_needed(self, path: Path) -> None:
        with ResultFile(path) as file:
            file.append(make("a"))
            assert not file.samples_path.exists()

    def test_a_payload_may_not_rename_its_case(self, path: Path) -> None:
        with ResultFile(path) as file, pytest.raises(ValueError, match="case_id"):
            file.append_samples(make("a"), {"case_id": "b"})

    def test_lines_that_were_made_elsewhere_come_with_the_row(self, path: Path) -> None:
        record = make("a")
        texts = [sample_fields({"ms": [0.123456789], "process": number}) for number in range(2)]
        with ResultFile(path) as file:
            file.append(
                record, (encode_samples(record, text, sample_fields({"pair": "7"})) for text in texts)
            )
            lines = file.samples_path.read_bytes().splitlines(keepends=True)
            for number in range(2):
                file.append_samples(record, {"ms": [0.123456789], "process": number, "pair": "7"})
            assert file.samples_path.read_bytes() == b"".join(2 * lines)
        assert [json.loads(line)["process"] for line in lines] == [0, 1]
        assert read_records(path) == [record]

    def test_a_row_whose_samples_cannot_be_written_is_not_written(self, path: Path) -> None:
        record = make("a")
        with ResultFile(path) as file:
            file.append_samples(make("b"), {"ms": [1.0]})
            file.samples_path.unlink()
            with pytest.raises(LbenchError, match="was moved or deleted"):
                file.append(record, [encode_samples(record)])
        assert read_records(path) == []

    def test_a_torn_last_line_is_cut_at_every_byte(self, path: Path) -> None:
        with ResultFile(path) as file:
            samples = file.samples_path
            file.append_samples(make("a"), {"ms": [1.0]})
            whole = samples.stat().st_size
            file.append_samples(make("b"), {"ms": [2.0]})
        data = samples.read_bytes()
        for length in range(whole, len(data)):
            samples.write_bytes(data[:length])
            with ResultFile(path) as file:
                assert (file.repaired is None) == (length == whole)
                assert samples.read_bytes() == data[:whole]
                file.append_samples(make("b"), {"ms": [2.0]})
            assert samples.read_bytes() == data

    def test_both_repairs_are_reported(self, path: Path) -> None:
        with ResultFile(path) as file:
            file.append_samples(make("a"), {})
            samples = file.samples_path
        for torn in (path, samples):
            with torn.open("ab") as end:
                end.write(b"torn")
        with ResultFile(path) as file:
            assert str(path) in str(file.repaired)
            assert str(samples) in str(file.repaired)


class TestReading:
    def test_lines_come_back_with_the_key_of_their_row(self, path: Path) -> None:
        record = make("a", provider_version="1", machine_id="m")
        clocks = [{"sm_clock_mhz": 1980, "power_w": None}, {"sm_clock_mhz": 1965.5}]
        with ResultFile(path) as file:
            file.append_samples(
                record,
                {"samples_ms": [1, float("nan"), 2.5], "turns": [1, 2], "clocks": clocks, "pair": "p0"},
            )
            file.append_samples(record, {"call_ms": [3.0], "graph_ms": [], "process": 2})
        found = read_samples(sidecar_path(path))
        assert found.faults == []
        assert found.lines == [
            SampleLine(
                record.key, {"samples_ms": [1.0, 2.5], "sm_clock_mhz": [1980.0, 1965.5]}, [1, 2], "p0"
            ),
            SampleLine(record.key, {"call_ms": [3.0]}, None, "", process=2),
        ]

    def test_faults_are_numbered_and_a_torn_end_is_known(self, path: Path) -> None:
        with ResultFile(path) as file:
            file.append_samples(make("a"), {"samples_ms": [1.0]})
            sidecar = file.samples_path
        whole = sidecar.read_bytes()
        no_number = whole.replace(b"{", b'{"process": "0", ')
        sidecar.write_bytes(b'not json\n\n[1]\n{"case_id": "a"}\n\xff\n' + whole + no_number + whole[:-9])
        found = read_samples(sidecar)
        assert [line.samples for line in found.lines] == [{"samples_ms": [1.0]}]
        assert [(fault.number, fault.torn) for fault in found.faults] == [
            *((number, False) for number in (1, 3, 4, 5, 7)),
            (8, True),
        ]

    def test_no_sidecar_has_no_lines(self, path: Path) -> None:
        assert read_samples(sidecar_path(path)) == SampleFile()


class TestFresh:
    def test_what_was_there_is_kept(self, path: Path) -> None:
        for case in "abc":
            with ResultFile(path, fresh=True) as file:
                assert file.records == []
                file.append_samples(make(case), {"ms": [1.0]})
                file.append(make(case))
                assert (file.moved is None) == (case == "a")
        assert read_records(path) == [make("c")]
        kept = sorted(set(path.parent.glob("speed.*.csv")))
        assert [read_records(moved) for moved in kept] == [[make("a")], [make("b")]]
        assert file.moved == kept[-1]
        for moved, case in zip(kept, "ab", strict=True):
            assert json.loads(moved.with_suffix(".samples.jsonl").read_text())["case_id"] == case

    def test_a_file_of_another_version_is_moved_and_not_read(self, path: Path) -> None:
        path.parent.mkdir(parents=True)
        path.write_text("case_id,old\nx,y\n")
        with ResultFile(path, fresh=True) as file:
            assert file.moved is not None
            assert file.moved.read_text() == "case_id,old\nx,y\n"
            file.append(make("a"))
        assert read_records(path) == [make("a")]

    def test_the_new_file_is_locked(self, path: Path) -> None:
        ResultFile(path).close()
        with ResultFile(path, fresh=True), pytest.raises(UsageError, match="another lbench sweep"):
            ResultFile(path)

    def test_nothing_there(self, path: Path) -> None:
        with ResultFile(path, fresh=True) as file:
            assert file.moved is None
        assert [found.name for found in path.parent.iterdir()] == ["speed.csv"]
