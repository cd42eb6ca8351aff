"""The guard names what was replaced since, and puts it back."""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy
import pytest
import torch

from lightning_bench.families import exact
from lightning_bench.measure import audit, deviation, oracle
from lightning_bench.measure.guard import Guard
from tests.support.exploits import meddling


@pytest.fixture
def guard() -> Iterator[Guard]:
    guard = Guard()
    guard.keep()
    yield guard
    guard.replaced()  # whatever a test has left


def test_nothing_is_named_when_nothing_was_replaced(guard: Guard) -> None:
    assert guard.replaced() is None


def other(*args: Any, **kwargs: Any) -> None:
    """Stand in for any function."""


@pytest.mark.parametrize(
    ("owner", "name", "shown"),
    [
        (time, "perf_counter_ns", "time.perf_counter_ns"),
        (torch.cuda, "synchronize", "torch.cuda.synchronize"),
        (numpy, "percentile", "numpy.percentile"),
        (math, "fsum", "math.fsum"),
        (statistics, "median", "statistics.median"),
        (torch.Tensor, "norm", "torch.Tensor.norm"),
        (deviation, "judge", "lightning_bench.measure.deviation.judge"),
        (audit.Audit, "after", "lightning_bench.measure.audit.Audit.after"),
        (exact, "softmax_attention", "lightning_bench.families.exact.softmax_attention"),
        (oracle, "definition_of", "lightning_bench.measure.oracle.definition_of"),
        (oracle, "BUDGET_FACTOR", "lightning_bench.measure.oracle.BUDGET_FACTOR"),
        (deviation, "ROW_FACTOR", "lightning_bench.measure.deviation.ROW_FACTOR"),
    ],
)
def test_what_was_replaced_is_named_and_put_back(guard: Guard, owner: Any, name: str, shown: str) -> None:
    real = getattr(owner, name)
    setattr(owner, name, other)
    assert guard.replaced() == f"it replaces {shown}"
    assert getattr(owner, name) is real
    assert guard.replaced() is None


def test_code_that_was_exchanged_is_put_back(guard: Guard) -> None:
    code = deviation.in_sample.__code__
    deviation.in_sample.__code__ = other.__code__
    assert guard.replaced() == "it replaces lightning_bench.measure.deviation.in_sample"
    assert deviation.in_sample.__code__ is code


@pytest.mark.parametrize(
    "change",
    [
        lambda: oracle._ROUNDING.update(fp32=1.0),
        lambda: oracle._ROUNDING.pop("fp16"),
        lambda: oracle._ROUNDING.clear(),
        lambda: oracle._ROUNDING.update(fp8=1.0),
    ],
)
def test_items_that_were_changed_are_put_back(guard: Guard, change: Callable[[], object]) -> None:
    before = dict(oracle._ROUNDING)
    change()
    assert guard.replaced() == "it replaces lightning_bench.measure.oracle._ROUNDING"
    assert before == oracle._ROUNDING


def test_a_method_that_hides_one_of_tensors_base_is_taken_away(guard: Guard) -> None:
    torch.Tensor.sum = other  # type: ignore[method-assign, assignment]
    assert guard.replaced() == "it replaces torch.Tensor.sum"
    assert float(torch.ones(3).sum()) == 3.0


@pytest.mark.parametrize(
    ("set_hook", "get_hook"), [(sys.setprofile, sys.getprofile), (sys.settrace, sys.gettrace)]
)
def test_a_hook_of_python_is_named_and_taken_away(guard: Guard, set_hook: Any, get_hook: Any) -> None:
    before = get_hook()
    set_hook(other)
    assert guard.replaced() == f"it replaces the function of sys.{set_hook.__name__}"
    assert get_hook() is before
    assert guard.replaced() is None


def test_a_dispatch_mode_is_named_and_taken_away(guard: Guard) -> None:
    meddling.Flattering().__enter__()
    meddling.Flattering().__enter__()
    mode = "torch's dispatch (Flattering)"
    assert guard.replaced() == f"it replaces {mode}, {mode}"
    assert float(torch.nan_to_num(torch.ones(1))) == 1.0
    assert guard.replaced() is None


def test_a_kernel_of_an_operator_is_named_once(guard: Guard) -> None:
    with torch.library._scoped_library("aten", "IMPL") as library:
        library.impl("_sobol_engine_initialize_state_", lambda x, _: x, "CPU")
        name = "aten/_sobol_engine_initialize_state_/CPU"
        assert guard.replaced() == f"it replaces kernels of torch ({name})"
        assert guard.replaced() is None


def test_all_that_was_replaced_is_named(guard: Guard) -> None:
    time.sleep, oracle.ACCUMULATION = other, 1.0
    assert guard.replaced() == "it replaces time.sleep, lightning_bench.measure.oracle.ACCUMULATION"
