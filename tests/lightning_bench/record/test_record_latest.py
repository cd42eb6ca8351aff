"""The latest row of a case by each key, and which files are result files."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_bench.case import Shape
from lightning_bench.errors import UsageError
from lightning_bench.record import (
    STATUSES,
    WORKED,
    ResultFile,
    Row,
    case_key,
    last_row,
    latest,
    latest_by,
    read_rows,
    suite_case_key,
)
from lightning_bench.record.discover import result_files, set_aside_path, shown_path
from tests.lightning_bench.record.test_record import make, write

TIMES = st.sampled_from(["", "2025-01-01T00:00:00+00:00", "2025-02-01T00:00:00+00:00"])
ROWS = st.lists(
    st.builds(
        lambda suite, case, version, time: Row(
            make(suite=suite, case_id=case, provider_version=version, time_utc=time), "x.csv"
        ),
        st.sampled_from("ab"),
        st.sampled_from("cd"),
        st.sampled_from("12"),
        TIMES,
    ),
    max_size=8,
)


@pytest.mark.parametrize("key", [case_key, suite_case_key, lambda record: record.provider_version])
@given(rows=ROWS)
def test_the_latest_of_each_key_stands_at_its_first_place(key: object, rows: list[Row]) -> None:
    assert callable(key)
    found = latest_by(rows, key)
    assert list(found) == list(dict.fromkeys(key(row.record) for row in rows))
    for name, row in found.items():
        same = [other for other in rows if key(other.record) == name]
        newest = max(other.record.time_utc for other in same)
        assert row is [other for other in same if other.record.time_utc == newest][-1]
        assert last_row(same) is row
    assert latest([row.record for row in rows], key) == [row.record for row in found.values()]


def test_suites_and_versions_differ_by_key() -> None:
    suites = [make(suite="a"), make(suite="b")]
    assert latest(suites) == suites[1:]
    assert latest(suites, suite_case_key) == suites
    versions = [make(provider_version="1"), make(provider_version="2")]
    assert latest(versions, suite_case_key) == versions[1:]


@pytest.mark.parametrize("status", STATUSES)
def test_what_worked_has_a_usable_figure(status: str) -> None:
    record = make(status=status)
    assert record.worked == (status in ("ok", "unstable")) == (record.status in WORKED)


def test_the_shape_of_a_record() -> None:
    assert make(value_dim=16).shape == Shape(1, 2, 64, 32, 16, "fp32", "cpu")


class TestResultFiles:
    def test_of_a_folder_those_that_a_sweep_wrote(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        write(tmp_path / "b.csv", make())
        write(tmp_path / "deep" / "a.csv", make())
        aside = set_aside_path(tmp_path / "b.csv", datetime(2026, 11, 21, 7, 25, 0, 123456, UTC))
        assert aside.name == "b.20261121T072500123456Z.csv"
        write(aside, make())
        (tmp_path / "empty.csv").touch()
        (tmp_path / "notes.csv").write_text("case_id,protocol,status\n")
        found = result_files([Path()])
        assert [path.as_posix() for path in found.files] == ["b.csv", "deep/a.csv"]
        assert (found.skipped, found.other) == (["empty.csv is empty"], ["notes.csv"])
        assert aside.name in {path.name for path in result_files([Path()], set_aside=True).files}

    def test_what_fresh_sets_aside_is_known_by_its_name(self, tmp_path: Path) -> None:
        for _ in range(2):
            with ResultFile(tmp_path / "x.csv", fresh=True) as file:
                file.append(make())
        assert file.moved is not None
        assert result_files([tmp_path]).files == [tmp_path / "x.csv"]
        assert set(result_files([tmp_path], set_aside=True).files) == {tmp_path / "x.csv", file.moved}

    def test_a_named_file_is_taken_once_whatever_it_holds(self, tmp_path: Path) -> None:
        path = tmp_path / "notes.csv"
        path.write_text("a\n")
        found = result_files([path, tmp_path / ".." / tmp_path.name / "notes.csv", tmp_path])
        assert found.files == [path]
        with pytest.raises(UsageError, match="nowhere: there is no such file or folder"):
            result_files([tmp_path / "nowhere"])

    def test_rows_know_their_file_and_named_files_without_rows(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        write(tmp_path / "a.csv", make())
        write(tmp_path / "none.csv")
        found = read_rows(["a.csv", tmp_path / "none.csv"])
        assert found.rows == [Row(make(), "a.csv")]
        assert found.without_rows == [tmp_path / "none.csv"]
        assert read_rows([tmp_path]).without_rows == []


def test_a_path_is_shown_as_it_would_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shown_path(tmp_path / "a" / "b.csv") == "a/b.csv"
    assert shown_path(Path("a/../b.csv")) == "b.csv"
    assert shown_path(Path("/elsewhere/b.csv")) == "/elsewhere/b.csv"
