"""One sweep of providers that misbehave in every way: each gets its own status and harms no other."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pandas as pd
import psutil
import pytest

from lightning_bench.record import Record
from lightning_bench.run.progress import QuietWatcher
from lightning_bench.run.sweep import Summary

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("forked_workers")]

# Waiting costs no CPU time, and even a busy machine takes less for all that is not a hang.
LIMIT_S = 5.0
# Status and part of the reason, in an order in which each would harm the next.
ENDS = {
    "GreedyForGood": ("oom", "alloc"),
    "Good": ("ok", ""),
    "Sleeps": ("timeout", "not done within 5 s; it was killed in phase 'warm-up'"),
    "HoldsTheGil": ("timeout", "not done within 5 s"),
    "Aborts": ("crashed", "the worker process died of SIGABRT; its last output: all is lost"),
    "OsExits": ("crashed", "the worker process ended with exit code 0"),
    "Raises": ("crashed", "ZeroDivisionError: no luck today"),
    "SysExits": ("crashed", "SystemExit: enough"),
    "Wrong": ("wrong", "o is off by 1.0e-02 relative L2"),
    "NanInDk": ("wrong", "dk has NaN or Inf in 2 of 128 rows"),
    "NotThere": ("unavailable", "No module named 'a_library_that_nobody_has'"),
    "LoadsBadly": ("crashed", "ZeroDivisionError: its import divides by zero"),
    "NeedsGpu": ("unavailable", "needs a CUDA device"),
    "Narrow": ("unsupported", "only sequences of prime length"),
}


class Notes(QuietWatcher):
    """Notes which case has entered which phase."""

    def __init__(self) -> None:
        self.phases: list[tuple[str, str]] = []

    def entered(self, case_id: str, phase: str) -> None:
        self.phases.append((case_id.partition("/")[0], phase))


@pytest.fixture(scope="module")
def notes() -> Notes:
    return Notes()


@pytest.fixture(scope="module")
def summary(workspace: Any, notes: Notes) -> Summary:
    limits = {"time_limit_s": LIMIT_S, "memory_limit_gib": 1.0}
    suite = workspace.suite(list(ENDS), limits=limits, direction="fwd_bwd")
    return workspace.sweep(suite, "speed", watcher=notes)


@pytest.fixture(scope="module")
def rows(summary: Summary) -> dict[str, Record]:
    return {record.provider: record for record in summary.records}


def kebab(name: str) -> str:
    return "".join(f"-{c.lower()}" if c.isupper() else c for c in name).lstrip("-")


@pytest.mark.parametrize("name", ENDS)
def test_each_provider_ends_with_its_status(rows: dict[str, Record], name: str) -> None:
    status, reason = ENDS[name]
    row = rows[kebab(name)]
    # A machine that is busy with something else may spread so short a time; that is no harm done.
    assert row.status == status or (status, row.status) == ("ok", "unstable"), row.reason
    if status != "ok":
        assert reason in row.reason


def test_right_rows_have_figures_and_wrong_rows_have_none(rows: dict[str, Record]) -> None:
    good = rows["good"]
    assert good.median_ms is not None
    assert good.median_ms > 0
    assert good.samples is not None
    assert good.samples >= 6
    for row in rows.values():
        if row is not good:
            assert (row.median_ms, row.call_ms, row.tflops) == (None, None, None)


def test_wrong_rows_have_their_errors(rows: dict[str, Record]) -> None:
    wrong = rows["wrong"]
    assert wrong.error_o == pytest.approx(0.01, rel=1e-3)
    assert wrong.error_budget is not None
    assert rows["nan-in-dk"].error_o == pytest.approx(0, abs=1e-5)
    assert "dq" not in rows["nan-in-dk"].reason
    assert "dv" not in rows["nan-in-dk"].reason


def test_each_case_has_one_row(summary: Summary, workspace: Any) -> None:
    assert sorted(workspace.ids()) == sorted(f"{kebab(name)} 64" for name in ENDS)
    assert summary.counts.total() == len(ENDS)
    assert summary.counts["crashed"] == 5
    assert summary.failed
    frame = pd.read_csv(workspace.out)
    assert list(frame["provider"]) == [record.provider for record in summary.records]


def test_only_timed_cases_have_samples(summary: Summary, workspace: Any) -> None:
    samples = [
        json.loads(line) for line in workspace.out.with_suffix(".samples.jsonl").read_text().splitlines()
    ]
    assert [line["case_id"].split("/")[0] for line in samples] == ["good"]


def test_time_is_booked_by_phase(summary: Summary, notes: Notes) -> None:
    assert {"start", "oracle", "warm-up", "samples", "check", "load"} <= summary.phases.keys()
    assert 0 < summary.overhead_percent < 100
    assert all(seconds >= 0 for seconds in summary.phases.values())
    assert sum(summary.phases.values()) <= summary.seconds
    # The last phase that each worker entered: a hang was waited for with the others at most once, and then in
    # a worker of its own.
    starts = [number for number, (_, phase) in enumerate(notes.phases) if phase == "start"]
    ends = Counter(notes.phases[number - 1] for number in [*starts[1:], len(notes.phases)])
    waits = [ends[name, "warm-up"] for name in ("sleeps", "holds-the-gil")]
    assert all(1 <= count <= 2 for count in waits), ends
    assert summary.phases["warm-up"] >= len(waits) * LIMIT_S


def test_no_worker_is_left(summary: Summary) -> None:
    left = [worker for child in psutil.Process().children() for worker in child.children()]
    assert [worker.cmdline() for worker in left if worker.status() != "zombie"] == []
