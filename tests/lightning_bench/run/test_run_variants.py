"""The suites `layers`, `packed` and `short` at shapes that a CPU runs, and who is wrong there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lightning_bench.record import Record, read_records
from tests.support.workspace import Ran

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("forked_workers")]

Lbench = Callable[..., Ran]

SMALL = ("--device", "cpu", "--dtype", "fp32", "--head-dim", "16")
PROVIDERS = """
from lightning_bench.providers.registry.base import Provider
from lightning_kernels import layer_slopes, lightning_attn2_torch


class Mine(Provider):
    label = "mine"
    family = "linear_decay"
    package = "torch"
    devices = ("cpu",)
    dtypes = ("fp32",)
    packs = True
    grouped_heads = True


class IgnoresDocuments(Mine):
    name = "ignores-documents"

    def build(self, inputs):
        return lambda: lightning_attn2_torch(inputs.q, inputs.k, inputs.v, inputs.decay)


class Interleaves(Mine):
    name = "interleaves"

    def build(self, inputs):
        def forward():
            times = inputs.q.shape[1] // inputs.k.shape[1]
            k, v = (x.repeat(1, times, 1, 1) for x in (inputs.k, inputs.v))
            return lightning_attn2_torch(inputs.q, k, v, inputs.decay)

        return forward


class FirstLayer(Mine):
    name = "first-layer"

    def build(self, inputs):
        slopes = layer_slopes(8 * inputs.q.shape[1], 0, 80).flatten()[-inputs.q.shape[1] :]
        return lambda: lightning_attn2_torch(inputs.q, inputs.k, inputs.v, slopes)

"""


@pytest.fixture
def rows(lbench: Lbench, tmp_path: Path) -> Callable[..., list[Record]]:
    """Return the rows of a command; `@NAME` stands for a provider of the file above."""
    (tmp_path / "mine.py").write_text(PROVIDERS)

    def of(*arguments: str) -> list[Record]:
        out = tmp_path / "out.csv"
        words = [word.replace("@", f"{tmp_path / 'mine.py'}:") for word in arguments]
        lbench(*words, *SMALL, "--out", out, "--quiet")
        return read_records(out)

    return of


def statuses(rows: list[Record]) -> dict[str, set[str]]:
    return {r.provider: {each.status for each in rows if each.provider == r.provider} for r in rows}


def test_packed_runs_and_finds_who_ignores_the_documents(rows: Callable[..., list[Record]]) -> None:
    found = rows(
        *("check", "packed", "--packing", "96 + 31 x 8, 3 x 50", "--heads", "2"),
        *("--provider", "lightning2-torch,lightning2-no-decay-torch,sdpa-math,@IgnoresDocuments"),
    )
    assert statuses(found) == {
        "lightning2-torch": {"ok"},
        "lightning2-no-decay-torch": {"ok"},
        "sdpa-math": {"unsupported"},
        "ignores-documents": {"wrong"},
    }
    assert {(r.seq_len, r.packing) for r in found} == {(344, "96+31x8"), (150, "3x50")}
    assert {r.reason for r in found if r.provider == "sdpa-math"} == {
        "sdpa-math takes no packed documents (cu_seqlens)"
    }


def test_layers_runs_and_finds_the_slopes_of_another_layer(rows: Callable[..., list[Record]]) -> None:
    found = rows(
        *("check", "layers", "--seq-len", "300", "--rank", "7 of 8", "--layer", "20 of 80, 79 of 80"),
        *("--provider", "lightning2-torch,sdpa-math,@FirstLayer"),
    )
    assert statuses(found) == {
        "lightning2-torch": {"ok"},
        "sdpa-math": {"unsupported"},
        "first-layer": {"wrong"},
    }
    assert {r.layer for r in found} == {"20 of 80", "79 of 80"}


def test_grouped_heads_run_and_find_who_gives_them_to_the_wrong_heads(
    rows: Callable[..., list[Record]],
) -> None:
    found = rows(
        *("check", "quick", "--seq-len", "200", "--heads", "4", "--kv-heads", "1,2,4"),
        *("--provider", "lightning2-torch,sdpa-math,@Interleaves"),
    )
    of_each = {
        (r.provider, r.kv_heads): r.status for r in found if r.direction == "fwd"
    }  # with one kv head, or one for each head, there is no other order
    assert of_each == {
        ("lightning2-torch", 1): "ok",
        ("lightning2-torch", 2): "ok",
        ("lightning2-torch", None): "ok",
        ("sdpa-math", 1): "unsupported",
        ("sdpa-math", 2): "unsupported",
        ("sdpa-math", None): "ok",
        ("interleaves", 1): "ok",
        ("interleaves", 2): "wrong",
        ("interleaves", None): "ok",
    }


def test_short_is_timed_and_says_why_a_cpu_has_no_graph(rows: Callable[..., list[Record]]) -> None:
    of = ("speed", "short", "--quick", "--seq-len", "64", "--heads", "2", "--provider", "lightning2-torch")
    found = rows(*of, "--direction", "fwd", "--batch", "1")
    assert all("graph" in r.reason and r.median_ms for r in found)
    again = rows(*of, "--direction", "fwd", "--batch", "1", "--no-graph", "--fresh")
    assert not any("graph" in r.reason for r in again)


def test_sequences_lie_on_one_rank_or_two(lbench: Lbench, tmp_path: Path) -> None:
    out = tmp_path / "ranks.csv"
    axes = (*SMALL, "--heads", "2", "--layer", "79 of 80", "--seq-len", "33,64", "--direction", "fwd_bwd")
    command = ("check", "context-parallel", *axes, "--ranks", "1,2", "--out", out)
    ran = lbench(*command, "--provider", "lightning2-torch,context-parallel-torch")
    assert ran.code == 0, ran.err
    rows = read_records(out)
    assert [(row.provider, row.ranks, row.seq_len, row.status) for row in rows] == [
        ("lightning2-torch", None, 33, "ok"),
        ("lightning2-torch", None, 64, "ok"),
        ("context-parallel-torch", 2, 33, "ok"),
        ("context-parallel-torch", 2, 64, "ok"),
    ]
    assert rows[-1].case_id.endswith("/b1-h2-n64-d16-e16-fp32-cpu-layer79of80-ranks2")
    assert {row.checks for row in rows} == {"2 of 2 pairs; outliers inputs again"}
    assert all(0 < (row.error_dk or 0) < (row.error_budget or 0) for row in rows)
    again = lbench(*command, "--provider", "lightning2-torch,context-parallel-torch")
    assert "4 cases, 4 of them recorded already" in again.err
    assert read_records(out) == rows


def test_who_takes_whole_sequences_is_on_no_ranks(lbench: Lbench, tmp_path: Path) -> None:
    out = tmp_path / "whole.csv"
    axes = (*SMALL, "--seq-len", "64", "--direction", "fwd")
    ran = lbench("check", "quick", *axes, "--ranks", "2", "--provider", "sdpa-math", "--out", out)
    assert ran.code == 0, ran.err
    assert [(row.status, row.reason) for row in read_records(out)] == [
        ("unsupported", "sdpa-math takes whole sequences, on one device: no --ranks")
    ]
