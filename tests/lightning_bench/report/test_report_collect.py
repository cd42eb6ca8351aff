"""Which CSVs a report reads, which row of a case counts, and which rows share a table."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_bench.errors import UsageError
from lightning_bench.record import Record, ResultFile, Row
from lightning_bench.report.collect import collect, latest_rows
from lightning_bench.report.tables.groups import group
from tests.support.report_rows import STORY

BASE = replace(STORY, case_id="a/fwd/b1", median_ms=1.0)


def save(path: Path, *records: Record) -> Path:
    with ResultFile(path) as file:
        for record in records:
            file.append(record)
    return path


def sources(paths: Sequence[Path], at: Path) -> list[str]:
    return [Path(row.source).relative_to(at.as_posix()).as_posix() for row in collect(paths).rows]


def test_a_folder_gives_its_files_in_order_with_all_below(tmp_path: Path) -> None:
    save(tmp_path / "b.csv", BASE)
    save(tmp_path / "a" / "z.csv", replace(BASE, case_id="other"))
    assert sources([tmp_path], tmp_path) == ["a/z.csv", "b.csv"]


def test_two_files_with_rows_of_the_same_case_are_named(tmp_path: Path) -> None:
    old = save(tmp_path / "old.csv", BASE, replace(BASE, case_id="a/fwd/b2"))
    later = replace(BASE, time_utc="2099-01-01T00:00:00+00:00")
    new = save(tmp_path / "new.csv", later, replace(later, case_id="a/fwd/b3"))
    for paths in ([old, new], [new, old], [tmp_path]):
        found = collect(paths)
        assert sorted(row.record.case_id for row in found.rows) == ["a/fwd/b1", "a/fwd/b2", "a/fwd/b3"]
        assert [row.source for row in found.rows if row.record.case_id == "a/fwd/b1"] == [new.as_posix()]
        before, after = old.as_posix(), new.as_posix()
        assert found.replaced == [
            f"1 case of one suite and machine: in {before} and in {after}. Shown is the later row, "
            f"of {after}. `lbench compare {before} {after}` compares both."
        ]
    assert collect([old]).replaced == []
    # A case that one file has twice, as after its kernel was edited, and other machines are no news.
    elsewhere = save(tmp_path / "elsewhere.csv", later, BASE, replace(later, machine_id="other"))
    assert collect([elsewhere]).replaced == []
    many = [save(tmp_path / f"{n}.csv", BASE) for n in range(6)]
    assert collect(many).replaced[3:] == ["The same holds for 2 more pairs of files."]


def test_a_folder_leaves_out_what_fresh_set_aside_and_what_scripts_wrote(tmp_path: Path) -> None:
    path = save(tmp_path / "mine.csv", replace(BASE, case_id="old"))
    with ResultFile(path, fresh=True) as file:
        file.append(BASE)
        assert file.moved is not None
    (tmp_path / "script.csv").write_text("call,median\nx,1\n")
    (tmp_path / "late.csv").write_text("")
    found = collect([tmp_path])
    assert [row.record.case_id for row in found.rows] == [BASE.case_id]
    assert [Path(sentence.split(" ", 1)[0]).name for sentence in found.skipped] == ["late.csv"]
    assert [sentence.split(" ", 1)[1] for sentence in found.skipped] == ["is empty"]
    # One that is named is read all the same.
    assert [row.record.case_id for row in collect([file.moved]).rows] == ["old"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("call,median\nx,1\n", "is not a result file of lbench"),
        ("", "is empty"),
        ("\x89PNG\r\n\x1a\n\x00\xff", "is not a result file of lbench"),
        ("case_id,metric\na,speed\n", "it has no column protocol"),
    ],
)
def test_a_file_that_is_named_must_be_ours(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "named.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match=message):
        collect([path])


def test_a_bad_row_is_an_error_in_a_folder_too(tmp_path: Path) -> None:
    path = save(tmp_path / "mine.csv", replace(BASE, median_ms=1.25))
    path.write_text(path.read_text().replace(",1.25,", ",1.25 us,"))
    with pytest.raises(UsageError, match=r"mine\.csv, line 2: not a row of lbench \(median_ms"):
        collect([tmp_path])


def test_no_rows_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file or folder"):
        collect([tmp_path / "nowhere"])
    with pytest.raises(UsageError, match="no rows of lbench in"):
        collect([tmp_path])
    path = save(tmp_path / "begun.csv")
    with pytest.raises(UsageError, match="has a header and no rows"):
        collect([path])
    with pytest.raises(UsageError, match="no rows of lbench in"):
        collect([tmp_path])


def test_each_file_is_read_once(tmp_path: Path) -> None:
    path = save(tmp_path / "a.csv", BASE)
    assert len(collect([path, tmp_path, tmp_path / "." / "a.csv"]).rows) == 1


def test_older_columns_are_read_and_what_is_missing_left_out(tmp_path: Path) -> None:
    names = [field.name for field in fields(Record)]
    kept = [name for name in names if name not in ("reason", "graph_ms", "machine_id", "time_utc")]
    path = tmp_path / "old.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, kept, extrasaction="ignore")
        writer.writeheader()
        writer.writerow(vars(BASE))
    (row,) = collect([tmp_path]).rows
    assert row.record == BASE


def test_the_source_is_as_people_here_would_type_it(tmp_path: Path, monkeypatch: Any) -> None:
    save(tmp_path / "results" / "a.csv", BASE)
    monkeypatch.chdir(tmp_path)
    assert [row.source for row in collect(["results"]).rows] == ["results/a.csv"]
    assert [row.source for row in collect([tmp_path / "results"]).rows] == ["results/a.csv"]


def test_the_last_row_by_time_counts_whatever_the_file(tmp_path: Path) -> None:
    early, late = (replace(BASE, median_ms=x, time_utc=f"2026-01-0{int(x)}") for x in (1.0, 2.0))
    other = replace(BASE, case_id="other")
    rows = [Row(late, "a"), Row(other, "a"), Row(early, "b")]
    assert latest_rows(rows) == [Row(late, "a"), Row(other, "a")]
    assert latest_rows([*rows, Row(late, "c")]) == [Row(late, "c"), Row(other, "a")]


def test_models_of_a_suite_are_in_their_order_in_whatever_parts_they_were_measured() -> None:
    def of(model: str, provider: str) -> Row:
        return Row(
            replace(BASE, metric="train", model=model, provider=provider, case_id=provider + model), "a"
        )

    measured = [
        of("tnl-1b", "b"),
        of("llama-0.4b", "c"),
        of("tnl-0.4b", "b"),
        of("tnl-0.4b", "a"),
        of("of-1b", "d"),
    ]
    plain = Row(BASE, "a")
    rows = latest_rows([measured[0], plain, *measured[1:]])
    assert rows == [measured[2], plain, measured[3], measured[1], measured[0], measured[4]]


CHANGES: dict[str, Any] = {
    "suite": "other",
    "metric": "memory",
    "protocol": "paper",
    "machine_id": "another",
    "device": "cuda",
    "direction": "bwd",
    "dtype": "fp16",
    "batch": 8,
    "heads": 16,
    "head_dim": 64,
    "value_dim": 64,
}
MIXABLE = {"suite", "protocol", "machine_id"}


@pytest.mark.parametrize("name", CHANGES)
def test_what_differs_never_shares_a_table_unless_mixed(name: str) -> None:
    rows = [Row(BASE, "a"), Row(replace(BASE, **{name: CHANGES[name]}), "a")]
    assert [(len(each.rows), each.mixed) for each in group(rows)] == [(1, False)] * 2
    mixed = [(2, True)] if name in MIXABLE else [(1, False)] * 2
    assert [(len(each.rows), each.mixed) for each in group(rows, mix=True)] == mixed


@pytest.mark.slow
@settings(max_examples=40)
@given(st.lists(st.sets(st.sampled_from(sorted(CHANGES))), max_size=8), st.booleans())
def test_grouping_keeps_every_row_once(changed: list[set[str]], mix: bool) -> None:
    rows = [Row(replace(BASE, **{name: CHANGES[name] for name in names}), "a") for names in changed]
    groups = group(rows, mix=mix)
    assert sorted(id(row) for each in groups for row in each.rows) == sorted(map(id, rows))
    for each in groups:
        assert len({(r.record.metric, r.record.head_dim, r.record.direction) for r in each.rows}) == 1
        origins = {(r.record.suite, r.record.protocol, r.record.machine_id) for r in each.rows}
        assert each.mixed == (len(origins) > 1)
        assert mix or not each.mixed
