"""The script that times calls with and without LIGHTNING_KERNELS_INVARIANT=1."""

from __future__ import annotations

import importlib
import os
from dataclasses import replace

import pytest

import tests.support.kernel_cases  # noqa: F401  makes the Triton interpreter quick
from lightning_bench.case import Shape
from lightning_bench.measure.device.clocks import NoClocks
from lightning_bench.measure.device.timer import CpuTimer
from lightning_bench.measure.sampling import StopRule
from lightning_kernels.common.switches import invariant
from tests.support.paths import ROOT


def test_a_row_has_both_times_and_the_switch_is_on_for_one_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    script = importlib.import_module("invariant_cost")
    monkeypatch.setattr(script, "RULE", StopRule(100.0, 3, 3, 0.0))
    monkeypatch.setattr(script, "PROVIDER", "lightning2-torch")
    seen: list[bool] = []
    real = script.direction_call

    def watched(*args: object) -> object:
        call = real(*args)

        def fn() -> object:
            seen.append(invariant())
            return call.fn()

        return replace(call, fn=fn)

    monkeypatch.setattr(script, "direction_call", watched)
    row = script.measured(Shape(1, 1, 16, 16, 16, "fp32", "cpu"), "bwd", CpuTimer(), NoClocks())
    assert float(row["default_ms"]) > 0
    assert float(row["ratio"]) == pytest.approx(
        float(row["invariant_ms"]) / float(row["default_ms"]), rel=1e-3
    )
    assert set(seen) == {False, True}
    assert "LIGHTNING_KERNELS_INVARIANT" not in os.environ
