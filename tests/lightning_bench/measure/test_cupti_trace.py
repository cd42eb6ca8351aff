"""Which records are of which call, their span, and the refusal where CUPTI cannot be used."""

from __future__ import annotations

import sys
from collections.abc import Callable
from enum import IntEnum
from itertools import count
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_bench.errors import ExitCode, UsageError
from lightning_bench.measure.device import cupti_trace
from lightning_bench.measure.device.call_watch import NoCallWatch
from lightning_bench.measure.device.cupti_trace import (
    ApiCall,
    CuptiTrace,
    DeviceActivity,
    LaunchSize,
    activities_of,
    busy_ms,
    load_cupti,
    span_ms,
)

MS = 1_000_000

activity_lists = st.lists(
    st.builds(
        lambda begin, length: DeviceActivity(begin, begin + length, 0),
        st.integers(1, 10**6),
        st.integers(1, 10**5),
    ),
    min_size=1,
    max_size=20,
)


def test_a_flush_before_the_call_and_a_check_after_it_are_not_of_the_call() -> None:
    windows = [(100, 200), (300, 400)]
    # Flush, call, check; the device runs everything long after it was launched, as behind a spinning kernel.
    api = [ApiCall(at, number) for number, at in enumerate((90, 110, 210, 290, 310, 410))]
    ran = [DeviceActivity(1000 + 10 * i, 1009 + 10 * i, i) for i in range(6)]
    assert activities_of(windows, api, ran) == [[ran[1]], [ran[4]]]


def test_activities_of_other_streams_and_threads_are_of_the_call() -> None:
    # Records come in any order; a graph is one API call and many activities; a query starts nothing.
    api = [ApiCall(150, 7), ApiCall(120, 5), ApiCall(130, 6)]
    ran = [DeviceActivity(900, 950, 7), DeviceActivity(500, 600, 5), DeviceActivity(550, 700, 5)]
    (found,) = activities_of([(100, 200)], api, ran)
    assert set(found) == set(ran)
    assert span_ms(found) == pytest.approx(450 / MS)


def test_the_span_has_the_gaps_that_busy_time_has_not() -> None:
    ran = [DeviceActivity(0, 2 * MS, 1), DeviceActivity(MS, 3 * MS, 2), DeviceActivity(5 * MS, 6 * MS, 3)]
    assert (span_ms(ran), busy_ms(ran)) == (6.0, 4.0)


@given(activity_lists)
def test_busy_time_is_between_the_longest_activity_and_the_span(ran: list[DeviceActivity]) -> None:
    longest = max(a.end_ns - a.begin_ns for a in ran) / 1e6
    total = sum(a.end_ns - a.begin_ns for a in ran) / 1e6
    assert longest - 1e-12 <= busy_ms(ran) <= min(total, span_ms(ran)) + 1e-12
    assert busy_ms(ran[::-1]) == busy_ms(ran)


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupti.cupti", None)
    with pytest.raises(UsageError, match=r"pip install 'lightning-bench\[cupti\]'") as caught:
        CuptiTrace()
    assert caught.value.exit_code == ExitCode.USAGE


def test_without_a_driver_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise RuntimeError("CUDA driver is not found")

    module = ModuleType("cupti.cupti")
    monkeypatch.setattr(module, "get_timestamp", refuse, raising=False)
    monkeypatch.setitem(sys.modules, "cupti.cupti", module)
    with pytest.raises(UsageError, match="CUDA driver is not found"):
        load_cupti()


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUPTI works here if it is installed")
def test_no_timer_is_made_without_cupti() -> None:
    from lightning_bench.measure.device.cupti_timer import CuptiTimer

    with pytest.raises(UsageError, match="CUPTI cannot be used"):
        CuptiTimer()


class _Kind(IntEnum):
    RUNTIME = 1
    DRIVER = 2
    CONCURRENT_KERNEL = 3
    MEMCPY = 4
    MEMSET = 5


class LateCupti(ModuleType):
    """The part of cupti-python that is used, whose records come with the second flush."""

    ActivityKind = _Kind

    def __init__(self, records: list[Any]) -> None:
        super().__init__("cupti.cupti")
        self.records, self.enabled, self.flushes = records, set[int](), 0
        self.completed: Callable[[list[Any]], None] = lambda records: None

    def get_timestamp(self) -> int:
        return 1

    def activity_enable(self, kind: int) -> None:
        self.enabled.add(kind)

    def activity_disable(self, kind: int) -> None:
        self.enabled.remove(kind)

    def activity_register_callbacks(self, requested: Any, completed: Callable[[list[Any]], None]) -> None:
        assert requested()[0] >= 2**20
        self.completed = completed

    def activity_flush_all(self, flag: int) -> None:
        self.flushes += 1
        if self.flushes == 2:
            self.completed(self.records)

    def finalize(self) -> None:
        assert not self.enabled


SIZE = LaunchSize((4, 32, 1), (128, 1, 1), 49152)


def record(kind: int, start: int, end: int, correlation: int) -> SimpleNamespace:
    fields: dict[str, int] = {}
    if kind == _Kind.CONCURRENT_KERNEL:
        fields = dict(zip(("grid_x", "grid_y", "grid_z"), SIZE.grid, strict=True))
        fields |= dict(zip(("block_x", "block_y", "block_z"), SIZE.block, strict=True))
        fields |= {"static_shared_memory": 1024, "dynamic_shared_memory": 48128}
    return SimpleNamespace(kind=kind, start=start, end=end, correlation_id=correlation, **fields)


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> LateCupti:
    module = LateCupti([record(_Kind.RUNTIME, 50, 60, 9), record(_Kind.MEMSET, 500, 700, 9)])
    monkeypatch.setitem(sys.modules, "cupti.cupti", module)
    monkeypatch.setattr(cupti_trace, "_PAUSE_S", 0.0)
    return module


def test_records_that_come_late_are_waited_for(late: LateCupti) -> None:
    trace = CuptiTrace()
    trace.start()
    trace.start()
    assert late.enabled == set(_Kind)
    assert trace.collect([(40, 60)]) == [[DeviceActivity(500, 700, 9)]]
    trace.stop()
    trace.stop()
    assert not late.enabled


def test_of_a_call_that_is_taken_again_the_last_try_counts(
    late: LateCupti, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton")
    from lightning_bench.measure.device.cupti_timer import CuptiTimer, TracedCall
    from lightning_bench.measure.device.stream_clock import SampleClock
    from lightning_bench.measure.device.timer import CudaTimer

    def twice(timer: CudaTimer, fn: Callable[[], object], count: int, watch: NoCallWatch) -> list[float]:
        """Take each sample twice, as where the first was not hidden; time passes by 10 ns a reading."""
        for _ in range(2 * count):
            fn()
        return [0.5] * count

    monkeypatch.setattr(CudaTimer, "__init__", lambda self: None)
    monkeypatch.setattr(CudaTimer, "sample", twice)
    clocks = iter([SampleClock(1980.0, False), SampleClock(1200.0, True)])
    monkeypatch.setattr(CudaTimer, "clocks", lambda timer: [next(clocks)])
    ticks = count(10, 10)
    monkeypatch.setattr(late, "get_timestamp", lambda: next(ticks))
    timer = CuptiTimer()  # which reads the clock once, 10
    # Windows: 20 to 30 and 40 to 50 for the first call, 60 to 70 and 80 to 90 for the second.
    late.records = [
        record(kind, *times)
        for number, at in enumerate((25, 45, 65, 85))
        for kind, times in (
            (_Kind.DRIVER, (at, at + 1, number)),
            (
                _Kind.CONCURRENT_KERNEL,
                (1000 * (number + 1), 1000 * (number + 1) + 100 * (number + 1), number),
            ),
        )
    ]
    assert timer.sample(lambda: None, 2, NoCallWatch()) == [2e-4, 4e-4]
    assert timer.clocks() == [SampleClock(1980.0, False), SampleClock(1200.0, True)]
    assert timer.calls == [
        TracedCall(2e-4, 2e-4, 1, 0.5, SIZE, SIZE),
        TracedCall(4e-4, 4e-4, 1, 0.5, SIZE, SIZE),
    ]


def test_a_call_without_records_is_an_error_and_no_time(late: LateCupti) -> None:
    trace = CuptiTrace()
    trace.start()
    with pytest.raises(RuntimeError, match="nothing on the device for 1 of 2 calls"):
        trace.collect([(40, 60), (70, 80)])


def test_a_kernel_whose_time_cupti_could_not_take_is_not_one_of_no_time(late: LateCupti) -> None:
    late.records[1] = record(_Kind.CONCURRENT_KERNEL, 0, 0, 9)
    trace = CuptiTrace()
    trace.start()
    with pytest.raises(RuntimeError, match="nothing on the device"):
        trace.collect([(40, 60)])
