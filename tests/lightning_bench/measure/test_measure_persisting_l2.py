"""Calls of the CUDA driver for the L2's persisting lines, on a library that only counts."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import pytest

from lightning_bench.measure import process_state
from lightning_bench.measure.device.persisting_l2 import PersistingL2, loaded_driver
from lightning_bench.measure.process_state import ProcessState


class FakeDriver:
    """A library whose functions return `result`; it has one limit."""

    def __init__(self, result: int = 0) -> None:
        self.result, self.size = result, 0
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., int]:
        def call(*arguments: Any) -> int:
            self.calls.append(name)
            if self.result == 0 and name == "cuCtxGetLimit":
                pointer, limit = arguments
                assert limit == 6
                ctypes.cast(pointer, ctypes.POINTER(ctypes.c_size_t))[0] = self.size
            if self.result == 0 and name == "cuCtxSetLimit":
                limit, size = arguments
                assert limit == 6
                self.size = size.value
            return self.result

        return call


def test_each_reset_is_one_call_of_the_driver() -> None:
    driver = FakeDriver()
    l2 = PersistingL2(driver)
    l2.reset()
    l2.reset()
    assert driver.calls == ["cuCtxResetPersistingL2Cache"] * 2


@pytest.mark.parametrize("result", [1, 201, 700])
def test_an_error_of_the_driver_is_raised_with_its_number(result: int) -> None:
    message = f"cuCtxResetPersistingL2Cache of the CUDA driver failed with CUresult {result}"
    with pytest.raises(RuntimeError, match=message):
        PersistingL2(FakeDriver(result)).reset()


@pytest.mark.parametrize("result", [215, 801])
def test_a_gpu_without_persisting_lines_is_not_asked_again(result: int) -> None:
    driver = FakeDriver(result)
    l2 = PersistingL2(driver)
    assert l2.set_aside is None
    driver.calls.clear()
    l2.reset()
    l2.reset()
    assert driver.calls == ["cuCtxResetPersistingL2Cache"]


def test_without_a_driver_there_is_nothing_to_do() -> None:
    l2 = PersistingL2(None)
    l2.reset()
    l2.set_aside = 2**20
    assert l2.set_aside is None


def test_a_library_that_was_not_loaded_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def absent(name: str, mode: int) -> None:
        asked.append(mode)
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr("lightning_bench.measure.device.persisting_l2.ctypes.CDLL", absent)
    assert loaded_driver() is None
    assert len(asked) == 1
    assert asked[0] & process_state.os.RTLD_NOLOAD


def test_a_set_aside_that_a_provider_leaves_is_named_and_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = FakeDriver()
    monkeypatch.setattr(process_state.torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(process_state.torch.cuda, "get_rng_state_all", list)
    monkeypatch.setattr(process_state, "loaded_driver", lambda: driver)
    state = ProcessState.read()
    assert state.restore() == []
    driver.size = 2**24
    (change,) = state.restore(quick=True)
    assert str(change).endswith("set aside for persisting lines from 0 to 16777216; restored")
    assert change.setting.effect == "timing"
    assert driver.size == 0
