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
