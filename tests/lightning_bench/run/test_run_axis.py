"""Along seq_len: workers are reused while healthy and replaced when lost; what did not fit is not tried."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest

from lightning_bench.run.sweep import Summary

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("forked_workers")]


@pytest.fixture(scope="module")
def summary(workspace: Any) -> Summary:
    names = ["NotesItsProcess", "TooLargeAt256", "DiesAt512", "NeedsGpu"]
    return workspace.sweep(workspace.suite(names, seq_len=[128, 256, 512, 1024]))


@pytest.fixture(scope="module")
def processes(summary: Summary, workspace: Any) -> dict[int, list[int]]:
    """Return the processes in which each seq_len was tried, in order."""
    tried: dict[int, list[int]] = defaultdict(list)
    for line in (workspace.folder / "pids").read_text().splitlines():
        seq_len, pid = map(int, line.split())
        tried[seq_len].append(pid)
    return tried


def test_longer_sequences_are_not_tried_after_out_of_memory(summary: Summary) -> None:
    rows = {r.seq_len: r for r in summary.records if r.provider == "too-large-at-256"}
    assert {n: row.status for n, row in rows.items()} == {128: "ok", 256: "oom", 512: "oom", 1024: "oom"}
    assert rows[256].reason == "OutOfMemoryError: simulated: out of memory"
    for n in (512, 1024):
        assert rows[n].reason == "not tried: out of memory already at seq_len 256, and memory grows with it"


def test_other_providers_are_measured_if_one_is_out_of_memory(summary: Summary) -> None:
    rows = [r for r in summary.records if r.provider == "notes-its-process"]
    assert [(r.seq_len, r.status) for r in rows] == [(n, "ok") for n in (128, 256, 512, 1024)]


def test_a_provider_that_dies_at_one_length_is_measured_at_the_next(summary: Summary) -> None:
    rows = {r.seq_len: r for r in summary.records if r.provider == "dies-at-512"}
    assert {n: r.status for n, r in rows.items()} == {128: "ok", 256: "ok", 512: "crashed", 1024: "ok"}
    assert rows[512].reason == "the worker process died of SIGKILL"


def test_a_healthy_worker_is_reused(processes: dict[int, list[int]]) -> None:
    assert len(processes[128]) == len(processes[256]) == 1
    assert processes[128] == processes[256]


def test_a_worker_that_ran_out_of_memory_is_replaced(processes: dict[int, list[int]]) -> None:
    # It may still hold the memory: the next shape has another.
    assert processes[512][0] != processes[256][0]


def test_a_worker_that_died_is_replaced(processes: dict[int, list[int]]) -> None:
    together, *alone = processes[512]
    assert len(set(alone) - {together}) == len(alone) <= 1
    assert processes[1024][0] not in {together, processes[256][0]}


def test_a_case_that_cannot_run_needs_no_worker(workspace: Any) -> None:
    suite = workspace.suite(["NeedsGpu"], name="gpu", seq_len=[64, 128])
    summary = workspace.sweep(suite)
    assert [(r.status, r.reason) for r in summary.records] == [("unavailable", "needs a CUDA device")] * 2
    assert summary.phases == {}
    assert summary.overhead_percent == pytest.approx(100)
    assert not summary.failed


def test_out_of_memory_is_remembered_by_a_resumed_sweep(summary: Summary, workspace: Any) -> None:
    suite = workspace.suite(["TooLargeAt256"], name="longer", seq_len=[256, 2048, 4096])
    again = workspace.sweep(suite)
    assert again.phases == {}
    assert [(r.seq_len, r.status) for r in again.records] == [(256, "oom"), (2048, "oom"), (4096, "oom")]
    assert again.records[2].reason.startswith("not tried: out of memory already at seq_len 256")
