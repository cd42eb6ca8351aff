"""Training in workers of their own: each case ends as a row, and a second run does only what is left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lightning_bench.record import Record, read_records

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("forked_workers")]

HANG_S, PATIENT_S = 5.0, 60.0
SUITE = """title = "Story"
description = "For tests."
device = "cpu"
[limits]
time_limit_s = {limit}
sample_limit_s = 0.05
min_samples = 6
ci_percent = 50.0
[[train]]
providers = {providers}
model = "llama-tiny"
dtype = "fp32"
seq_len = {lengths}
tokens = 64
"""
ENDS = {
    "good": ("ok", ""),
    "sleeps": ("timeout", "not done within 5 s; it was killed in phase 'oracle'"),
    "aborts": ("crashed", "the worker process died of SIGABRT; its last output: all is lost"),
}


def suite(workspace: Any, names: list[str], lengths: list[int], limit_s: float = PATIENT_S) -> Path:
    specs = [f"zoo.py:{name}" for name in names]
    text = SUITE.format(limit=limit_s, providers=json.dumps(specs), lengths=lengths)
    path: Path = workspace.folder / "training.toml"
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def rows(workspace: Any) -> dict[str, Record]:
    workspace.sweep(suite(workspace, ["Sleeps"], [32], limit_s=HANG_S), "train")
    workspace.sweep(suite(workspace, ["Aborts", "Good"], [32]), "train")
    return {row.provider: row for row in read_records(workspace.out)}


@pytest.mark.parametrize("name", ENDS)
def test_every_case_ends_as_a_row(rows: dict[str, Record], name: str) -> None:
    row, (status, reason) = rows[name], ENDS[name]
    assert row.status == status or {row.status, status} == {"ok", "unstable"}, row.reason
    assert reason in row.reason
    assert (row.metric, row.model, row.step_tokens, row.batch, row.seq_len) == (
        "train",
        "llama-tiny",
        64,
        2,
        32,
    )
    assert row.worked == (row.tokens_per_s is not None) == (name == "good")
    assert row.shape.model_run.model == "llama-tiny"


def test_a_second_run_does_only_what_is_left(workspace: Any, rows: dict[str, Record]) -> None:
    before = workspace.out.read_bytes()
    summary = workspace.sweep(suite(workspace, ["Good"], [32, 64]), "train")
    assert [(row.provider, row.seq_len) for row in summary.records] == [("good", 32), ("good", 64)]
    after = workspace.out.read_bytes()
    assert after.startswith(before)
    assert after.count(b"\n") == before.count(b"\n") + 1
    lines = workspace.out.with_suffix(".samples.jsonl").read_text().splitlines()
    assert {len(json.loads(line)["samples_ms"]) for line in lines} >= {rows["good"].samples}
