"""The scripts that time the kernels that serve, and compare their roundings: dry runs on a CPU."""

from __future__ import annotations

import csv
import importlib
from pathlib import Path

import pytest

import tests.support.kernel_cases  # noqa: F401  makes the Triton interpreter quick
from lightning_bench.measure.device.clocks import NoClocks
from lightning_bench.measure.device.timer import CpuTimer
from lightning_bench.measure.sampling import StopRule
from tests.support.paths import ROOT


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
def test_every_call_runs_and_has_a_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")  # as where it runs as a script
    script = importlib.import_module("serving_batches")
    sizes = {
        "HEADS": 1, "DIM": 16, "PROMPTS": 1, "PROMPT": 9, "DECODES": 1, "DRAFT": 2, "BATCHES": (1,),
        "BATCH": 2, "TILES": [(16, 4, 2)],
    }  # fmt: skip
    for name, size in sizes.items():
        monkeypatch.setattr(script, name, size)
    monkeypatch.setattr(script, "RULE", StopRule(100.0, 1, 1, 0.0))
    monkeypatch.setattr(script, "warm_up", lambda *_: None)
    workloads = {name: make() for name, make in script.workloads("cpu", tiles=True).items()}
    for calls, _ in workloads.values():
        for call in calls.values():
            call()
    calls, size = workloads["decode b2, states in bf16"]
    rows = script.measure("some", calls, size, CpuTimer(), NoClocks(), "cpu")
    assert [row["call"] for row in rows] == ["step-pool", "step-stochastic", "copy"]
    assert all(float(row["median_ms"]) > 0 and row["bytes"] == size > 0 for row in rows)
    assert float(rows[-1]["ratio_to_copy"]) == 1.0

    def swept(only: str) -> list[dict[str, str]]:
        every = script.workloads("cpu", tiles=False)
        script.sweep(tmp_path / "rows.csv", only, every, CpuTimer(), NoClocks(), "cpu")
        with (tmp_path / "rows.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    some, all_of_bf16 = swept("decode b1"), swept("states in bf16")
    assert [row["workload"] for row in all_of_bf16] == [
        *["decode b1"] * 6, *["decode b2, states in bf16"] * 3, *["1 prompts of 9, states in bf16"] * 4,
    ]  # fmt: skip
    assert all_of_bf16[:6] == some
    assert swept("decode b1")[6:] == all_of_bf16[6:]


def test_every_rounding_has_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    script = importlib.import_module("state_rounding")
    monkeypatch.setattr(script, "TOKENS", 20)
    rows = list(script.measure(1.0))
    assert len(rows) == 3 * len(script.HEADS)
    error = {(row["state"], row["layer"], row["head"]): float(row["o_error"]) for row in rows}
    for layer, head in script.HEADS:
        assert error["fp32", layer, head] < 1e-6 < error["bf16, to nearest", layer, head] < 1e-2
        assert 1e-6 < error["bf16, stochastic", layer, head] < 1e-2
