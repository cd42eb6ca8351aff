"""`lbench merge`: shards become one file with one row per case, and nothing gets lost unnoticed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_bench.record import Record, ResultFile, read_records
from lightning_bench.record.latest import latest
from lightning_bench.record.samples import read_samples, sidecar_path
from tests.support.report_rows import STORY

Lbench = Callable[..., Any]


def row(number: int, **changes: Any) -> Record:
    case = f"a/fwd/b1-h2-n{number}-d16-e16-bf16-cpu"
    values: dict[str, Any] = {
        "case_id": case,
        "seq_len": number,
        "median_ms": 1.0 + number,
        "machine_id": "m",
    }
    return replace(STORY, **(values | changes))


def written(path: Path, records: list[Record], *, fresh: bool = True) -> Path:
    with ResultFile(path, fresh=fresh) as file:
        for record in records:
            for process in (0, 1):
                times = [record.median_ms or 0.0, 2.0 + process]
                file.append_samples(record, {"samples_ms": times, "process": process})
            file.append(record)
    return path


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 99)), max_size=12), st.integers(1, 4))
def test_shards_of_a_file_merge_to_its_latest_rows(
    tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[int, int]], count: int
) -> None:
    from lightning_bench.record.merge import merge_rows, write_merged

    folder = tmp_path_factory.mktemp("merge")
    rows = [row(number, median_ms=float(time)) for number, time in cells]
    shards = [
        written(
            folder / f"s-shard{part + 1}of{count}.csv",
            [each for each in rows if each.seq_len % count == part],
        )
        for part in range(count)
    ]
    with ResultFile(folder / "s.csv") as file:
        write_merged(merge_rows(shards), file)
    found = read_records(folder / "s.csv")
    assert {record.case_id: record for record in found} == {record.case_id: record for record in latest(rows)}
    assert len(found) == len({record.case_id for record in found})
    # Of each row its own samples are the last ones.
    kept = {
        line.key: line.samples["samples_ms"] for line in read_samples(sidecar_path(folder / "s.csv")).lines
    }
    assert kept == {record.key: [record.median_ms, 3.0] for record in found}


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    return [
        written(tmp_path / f"paper-speed-shard{number}of3.csv", [row(number), row(10 * number)])
        for number in (1, 2, 3)
    ]


def test_the_name_is_that_of_the_whole(lbench: Lbench, shards: list[Path]) -> None:
    out = shards[0].with_name("paper-speed.csv")
    ran = lbench("merge", *shards)
    assert (ran.code, ran.err) == (0, f"6 rows of 3 files: {out}\n")
    assert [record.seq_len for record in read_records(out)] == [1, 10, 2, 20, 3, 30]
    again = lbench("merge", *shards[:2], "--json")
    assert json.loads(again.out) == {"results": str(out), "rows": 4, "missing_shards": ["3/3"]}
    assert again.err.startswith("the earlier results are now ")
    assert "missing: shard 3/3\n" in again.err


def test_shards_of_sweeps_that_were_cut_differently_may_lack_cases(
    lbench: Lbench, shards: list[Path]
) -> None:
    other = written(shards[0].with_name("paper-speed-shard2of4.csv"), [row(2)])
    ran = lbench("merge", shards[0], other)
    assert (ran.code, ran.err.splitlines()[0]) == (
        0,
        "the shards are parts of 3 and of 4: cases may be missing",
    )


def test_a_row_that_two_files_have_counts_once(lbench: Lbench, shards: list[Path], tmp_path: Path) -> None:
    copy = written(tmp_path / "copy.csv", read_records(shards[0]))
    assert lbench("merge", shards[0], copy, "--out", tmp_path / "both.csv").code == 0
    assert read_records(tmp_path / "both.csv") == read_records(shards[0])
    assert len(read_samples(tmp_path / "both.samples.jsonl").lines) == 4


@pytest.mark.parametrize("change", [{"median_ms": 7.0}, {"machine_id": "other"}, {"provider_version": "2"}])
def test_different_rows_of_a_case_are_refused(
    lbench: Lbench, shards: list[Path], tmp_path: Path, change: dict[str, Any]
) -> None:
    other = written(tmp_path / "other.csv", [row(10, **change)])
    ran = lbench("merge", shards[0], other, "--out", tmp_path / "both.csv")
    assert ran.code == 2
    said = " ".join(ran.err.split())
    assert f"different rows of one case: speed of {row(10).case_id} is in {shards[0]} and {other}." in said
    assert "Leave out one of the files" in said
    assert not (tmp_path / "both.csv").exists()


def test_names_that_do_not_say_where_to(lbench: Lbench, shards: list[Path], tmp_path: Path) -> None:
    other = written(tmp_path / "other.csv", [row(4)])
    for files in ([other], [shards[0], other]):
        ran = lbench("merge", *files)
        assert (ran.code, "give --out FILE" in ran.err) == (2, True)
    ran = lbench("merge", "paper-speed-shard*of3.csv")  # a pattern that the shell has left as it is
    assert (ran.code, "cannot read paper-speed-shard*of3.csv: No such file" in ran.err) == (2, True)
    ran = lbench("merge", *shards, "--out", shards[1])
    assert (ran.code, "is one of the files to merge" in ran.err) == (2, True)
    assert len(read_records(shards[1])) == 2


def test_a_shard_that_is_still_written(lbench: Lbench, shards: list[Path]) -> None:
    with sidecar_path(shards[2]).open("ab") as file:
        file.write(b'{"case_id": "a/fwd')
    assert lbench("merge", *shards).code == 0
    with sidecar_path(shards[2]).open("ab") as file:
        file.write(b"\n")
    ran = lbench("merge", *shards)
    assert (ran.code, "line 5: no samples of lbench" in " ".join(ran.err.split())) == (2, True)


def test_machines_of_several_kinds_are_told(lbench: Lbench, shards: list[Path], tmp_path: Path) -> None:
    other = written(tmp_path / "o.csv", [row(4, machine_id="n", device_name="H200")])
    ran = lbench("merge", shards[0], other, "--out", tmp_path / "both.csv")
    assert "the rows are of machines of several kinds: H200" in ran.err
