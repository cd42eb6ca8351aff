"""The script that measures what a call takes of its caller's time: a dry run on a CPU."""

from __future__ import annotations

import importlib

import pytest
import torch

import tests.support.kernel_cases  # noqa: F401  makes the Triton interpreter quick
from tests.support.paths import ROOT


def test_every_call_has_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")  # as where it runs as a script
    script = importlib.import_module("host_cost")
    for name, size in (("BATCH", 1), ("HEADS", 1), ("SEQ_LEN", 4), ("DIM", 16), ("CALLS", 1)):
        monkeypatch.setattr(script, name, size)
    rows = script.measure("cpu", 1, 1)
    modes = ("fwd_no_grad", "fwd_grad", "fwd_bwd", "fwd_bwd_one_thread", "step")
    providers = ("lightning2", "lightning2-operator", "sdpa-flash", "launch-free")
    assert {(row["provider"], row["mode"]) for row in rows} == {(p, m) for p in providers for m in modes}
    assert len(rows) == len(providers) * len(modes)
    assert all(float(row["median_us"]) > 0 for row in rows)
    assert {float(row["ratio_to_sdpa"]) for row in rows if row["provider"] == "sdpa-flash"} == {1.0}
    assert torch.is_grad_enabled()
