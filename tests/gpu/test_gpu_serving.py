"""Serving on a real GPU: every provider that is installed agrees with the oracle, and replays are judged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lightning_bench.case import Shape
from lightning_bench.measure.calls import direction_call
from lightning_bench.measure.deviation import judge
from lightning_bench.measure.inputs import InputSet
from lightning_bench.measure.oracle import Reference
from lightning_bench.providers import get_provider, provider_names
from lightning_bench.record import read_records
from lightning_bench.variant import Part, Variant
from tests.support.paths import ROOT

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("default"),  # other libraries' warnings are not ours
]

KNOWN_WRONG = {"vllm-lightning", "sglang-minimax", "transformers-minimax"}
"""docs/upstream.md says what is wrong."""
NAMES = [
    name
    for name in provider_names()
    if get_provider(name).family in ("serving", "drafting") and name not in KNOWN_WRONG
]
SHAPES = (
    Shape(7, 16, 1, 128, 128, "bf16", "cuda"),
    Shape(2, 16, 700, 128, 128, "bf16", "cuda", Variant(layer=Part(79, 80))),
    Shape(1, 16, 1105, 128, 128, "bf16", "cuda", Variant(documents=(1000, 1, 1, 100, 1, 1, 1))),
    Shape(3, 16, 70, 64, 64, "bf16", "cuda", Variant(kv_heads=4)),
    Shape(5, 16, 4, 128, 128, "bf16", "cuda"),
)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_output_and_states_agree_with_the_oracle(name: str, shape: Shape) -> None:
    provider = get_provider(name)
    if reason := provider.unavailable("cuda") or provider.unsupported(shape, "fwd"):
        pytest.skip(reason)
    provider.load()
    inputs = InputSet(shape, 0)
    reference = Reference(provider.family, inputs, gradients=False, seed=0)
    assert (
        judge(reference, direction_call(provider, inputs, "fwd").tensors(), provider.layout).failure is None
    )


@pytest.mark.parametrize("suite", ["decode", "verify"])
def test_replays_of_a_graph_find_the_states_of_each_call(suite: str, tmp_path: Path) -> None:
    out = tmp_path / "rows.csv"
    ours = {"decode": "lightning2-step,lightning2-serve", "verify": "lightning2-verify"}[suite]
    options = ["--batch", "8", "--processes", "1", "--out", str(out)]
    command = [sys.executable, "-m", "lightning_bench", "speed", suite, "--provider", ours, *options]
    subprocess.run(command, cwd=ROOT, check=True)
    rows = read_records(out)
    assert rows
    for row in rows:
        assert row.status in ("ok", "unstable"), row.reason
        assert row.graph_ms
        assert row.error_state is not None
        assert "replays" in row.checks
