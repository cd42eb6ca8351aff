"""The script behind two of the findings: on a CPU, the call with the fault adds up and the other does not."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest
import torch

from lightning_bench.case import Shape
from tests.support.paths import ROOT


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("triton")  # of which the timer of CUDA events is made
    monkeypatch.syspath_prepend(ROOT / "benchmarks")  # as where it runs as a script
    return importlib.import_module("published_faults")


def test_one_call_adds_to_the_gradients_and_the_other_returns_them(script: ModuleType) -> None:
    with_it, without = script.accumulation("lightning2-torch", Shape(1, 2, 64, 16, 16, "fp32", "cpu"))
    leaves = next(cell.cell_contents for cell in without.__closure__ if isinstance(cell.cell_contents, tuple))
    once = [grad.clone() for grad in without()]
    torch.testing.assert_close([leaf.grad for leaf in leaves], once)
    with_it()
    torch.testing.assert_close([leaf.grad for leaf in leaves], [2 * grad for grad in once])
    without()
    torch.testing.assert_close([leaf.grad for leaf in leaves], [2 * grad for grad in once])
