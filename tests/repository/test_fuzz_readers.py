"""A short run of benchmarks/fuzz_readers.py; results/cpu has a long one. And faults that it must notice."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from benchmarks import fuzz_readers
from lightning_bench.errors import ExitCode
from tests.support.paths import ROOT
from tests.support.patience import PATIENCE_S


@pytest.mark.slow
def test_sixty_damaged_files_end_with_a_documented_code() -> None:
    ended = dict(fuzz_readers.fuzz(range(60), 7, PATIENCE_S))
    assert {number: (each.words, each.faults) for number, each in ended.items() if each.faults} == {}
    assert {each.code for each in ended.values()} >= {ExitCode.OK, ExitCode.USAGE}
    assert {each.words[0] for each in ended.values()} >= {
        "report",
        "compare",
        "history",
        "suites",
        "ceilings",
    }


@pytest.mark.parametrize(
    ("printed", "fault"),
    [
        ("::stop-commands::x", "workflow command"),
        ("  ::error::x", "workflow command"),
        ("a ##[error]x", "workflow command"),
        ("a\x1b[31m", "control character"),
        ("Traceback (most recent call last):", "traceback"),
    ],
)
def test_a_broken_rule_is_noticed(monkeypatch: pytest.MonkeyPatch, printed: str, fault: str) -> None:
    def main() -> None:
        import sys

        print(printed, file=sys.stderr)
        raise SystemExit(0)

    monkeypatch.setattr("lightning_bench.cli.main", main)
    assert fuzz_readers.run(["suites"], github=True).faults == [fault]


def test_a_hang_and_an_unknown_exit_code_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def spin() -> None:
        while True:
            pass

    def leave() -> None:
        raise SystemExit(7)

    monkeypatch.setattr("lightning_bench.cli.main", spin)
    assert fuzz_readers.run(["suites"], github=False, hang_s=0.05).faults == ["hang"]
    monkeypatch.setattr("lightning_bench.cli.main", leave)
    assert fuzz_readers.run(["suites"], github=False).faults == ["exit code 7"]


def test_a_run_can_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "counts.csv"
    ends = fuzz_readers.Counts({("report", "0"): 3, ("compare --json", "hang"): 1})
    faulty = fuzz_readers.Counts({("report", "0"): 0, ("compare --json", "hang"): 1})
    fuzz_readers.write_counts(path, ends, faulty)
    assert fuzz_readers.read_counts(path) == (ends, faulty)
    monkeypatch.setattr("sys.argv", ["fuzz_readers", str(path), "--start", "3"])
    with pytest.raises(SystemExit, match="2"):
        fuzz_readers.main()


def test_the_long_run_is_committed_and_found_nothing() -> None:
    rows = list(csv.DictReader((ROOT / "results" / "cpu" / "fuzz-readers.csv").read_text().splitlines()))
    assert sum(int(row["mutations"]) for row in rows) >= 10_000
    assert {row["faults"] for row in rows} == {"0"}
    assert {int(row["exit_code"]) for row in rows} <= set(ExitCode)


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("torture.csv", {"disk", "writers", "worker", "parent", "signal"}),
        ("torture-slots.csv", {"slots-parent", "slots-worker", "ray-node"}),
    ],
)
def test_the_trials_are_committed_and_lost_nothing(name: str, kinds: set[str]) -> None:
    rows = list(csv.DictReader((ROOT / "results" / "cpu" / name).read_text().splitlines()))
    assert {row["kind"] for row in rows} == kinds
    assert all(int(row["trials"]) >= 5 for row in rows)
    assert {row[wrong] for row in rows for wrong in ("lost", "doubled", "torn")} == {"0"}
