"""Sweeps of generation: a batch that did not fit rules out larger ones, and rows that exist stay."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lightning_bench.machine import describe_machine
from lightning_bench.measure.job import Outcome
from lightning_bench.record import Record, ResultFile, read_records
from lightning_bench.run.plan import Plan
from lightning_bench.run.progress import QuietWatcher
from lightning_bench.run.sweep import Summary, Sweep, run_sweep
from lightning_bench.suite import load_suite

pytestmark = pytest.mark.usefixtures("forked_workers")

SUITE = """title = "Story"
description = "For tests."
device = "cpu"
[limits]
sample_limit_s = 0.05
min_samples = 6
ci_percent = 50.0
[[generate]]
providers = "sdpa-math"
model = "llama-tiny"
dtype = "fp32"
prompt = {prompts}
new_tokens = 4
batch = {batches}
"""


def plan(folder: Path, batches: list[int], prompts: int = 8) -> Plan:
    (folder / "story.toml").write_text(SUITE.format(batches=json.dumps(batches), prompts=prompts))
    return Plan.of(load_suite(folder / "story.toml"), "generate", describe_machine("cpu"))


def swept(of: Plan, out: Path) -> Summary:
    with ResultFile(out) as file:
        return run_sweep(of, file, QuietWatcher())


def test_larger_batches_are_not_tried_after_out_of_memory(tmp_path: Path) -> None:
    whole, out = plan(tmp_path, [4, 16]), tmp_path / "out.csv"
    with ResultFile(out) as file:
        Sweep(whole, file, QuietWatcher()).record(Outcome(whole.cases[0], "oom", "CUDA out of memory"))
    summary = swept(whole, out)
    assert summary.phases == {}  # no worker has started
    assert [(row.batch, row.status) for row in summary.records] == [(4, "oom"), (16, "oom")]
    assert summary.records[1].reason == (
        "not tried: out of memory already at batch 4, and memory grows with it"
    )


def test_a_case_is_a_row_and_is_not_measured_again(tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    swept(plan(tmp_path, [1]), out)
    (row,) = read_records(out)
    assert row.worked, row.reason
    assert (row.metric, row.model, row.new_tokens, row.seq_len, row.batch) == (
        "generate",
        "llama-tiny",
        4,
        8,
        1,
    )
    assert row.shape.model_run.new_tokens == 4
    assert row.tokens_per_s
    assert row.cache_mib
    before = out.read_bytes()
    summary = swept(plan(tmp_path, [1]), out)
    assert summary.phases == {}
    assert out.read_bytes() == before


def test_what_is_kept_of_a_run_reads_back(tmp_path: Path) -> None:
    of = plan(tmp_path, [2])
    with ResultFile(tmp_path / "out.csv") as file:
        Sweep(of, file, QuietWatcher()).record(Outcome(of.cases[0], "unsupported"))
    (row,) = read_records(tmp_path / "out.csv")
    assert isinstance(row, Record)
    assert row.shape == of.cases[0].shape
