"""The CPU timer against a sleep, and what the clock readings of a case amount to."""

from __future__ import annotations

import time

import pytest

from lightning_bench.measure.device.call_watch import NoCallWatch
from lightning_bench.measure.device.clocks import (
    ClockFigures,
    ClockReading,
    NoClocks,
    NvmlClocks,
    make_clocks,
    summarize_clocks,
)
from lightning_bench.measure.device.timer import CpuTimer, make_timer


def reading(
    mhz: float = 1980.0, watts: float = 400.0, celsius: float = 50.0, reasons: int = 0
) -> ClockReading:
    return ClockReading(mhz, watts, celsius, reasons)


def test_a_sleep_takes_at_least_its_time() -> None:
    timer = CpuTimer()
    samples = timer.sample(lambda: time.sleep(0.002), 10, NoCallWatch())
    assert len(samples) == 10
    assert all(ms >= 2.0 for ms in samples)
    assert min(samples) < 20.0  # milliseconds, not microseconds
    assert 2.0 <= timer.call(lambda: time.sleep(0.002), NoCallWatch()) < 200.0


def test_each_sample_is_one_call() -> None:
    calls: list[int] = []
    timer = CpuTimer()
    assert len(timer.sample(lambda: calls.append(1), 7, NoCallWatch())) == 7
    assert len(calls) == 7
    assert timer.call(lambda: calls.append(1), NoCallWatch()) >= 0.0
    assert len(calls) == 8


def test_now_is_seconds_that_only_grow() -> None:
    timer = CpuTimer()
    begin = timer.now()
    time.sleep(0.01)
    assert 0.01 <= timer.now() - begin < 1.0


def test_a_cpu_hides_no_launches() -> None:
    timer = make_timer("cpu")
    assert isinstance(timer, CpuTimer)
    assert not timer.exposed(lambda: None)


def test_a_failing_call_is_not_swallowed() -> None:
    with pytest.raises(ZeroDivisionError):
        CpuTimer().sample(lambda: 1 / 0, 1, NoCallWatch())


def test_no_readings_are_no_figures_and_no_trouble() -> None:
    assert summarize_clocks([]) == ClockFigures(None, None, None, "", None)


def test_figures_are_medians_and_the_highest_temperature() -> None:
    figures = summarize_clocks([reading(1900, 300, 40), reading(1980, 500, 60), reading(1950, 310, 50)])
    assert figures == ClockFigures(1950, 310, 60, "", None)


@pytest.mark.parametrize("reasons", [0x1, 0x2, 0x4, 0x10])
def test_idle_settings_and_the_power_cap_are_no_trouble(reasons: int) -> None:
    figures = summarize_clocks([reading(), reading(reasons=reasons)])
    assert figures.trouble is None
    assert figures.throttle == ("power cap" if reasons == 0x4 else "")


@pytest.mark.parametrize(
    ("reasons", "name"),
    [
        (0x8, "hardware slowdown"),
        (0x20, "software thermal slowdown"),
        (0x40, "hardware thermal slowdown"),
        (0x80, "power brake"),
    ],
)
def test_one_throttled_reading_is_trouble(reasons: int, name: str) -> None:
    figures = summarize_clocks([reading()] * 9 + [reading(reasons=reasons)])
    assert figures.throttle == name
    assert figures.trouble == f"the GPU throttled: {name}"


def test_reasons_of_all_readings_are_joined() -> None:
    figures = summarize_clocks([reading(reasons=0x4), reading(reasons=0x48), reading(reasons=0x4)])
    assert figures.throttle == "power cap, hardware slowdown, hardware thermal slowdown"
    assert figures.trouble == "the GPU throttled: hardware slowdown, hardware thermal slowdown"


def test_a_clock_that_is_often_low_is_trouble() -> None:
    steady = [reading(1980)] * 20
    fallen = summarize_clocks([*steady, *[reading(1500)] * 6])
    assert fallen.trouble == "the SM clock was below 1500 MHz a fifth of the time, with a median of 1980"
    assert fallen.sm_clock_mhz == 1980
    # A small drop for long and a deep one for a moment are not.
    assert summarize_clocks([*steady, *[reading(1700)] * 6]).trouble is None
    assert summarize_clocks([*steady, reading(300)]).trouble is None


def test_a_cpu_has_no_readings() -> None:
    clocks = make_clocks("cpu")
    assert isinstance(clocks, NoClocks)
    assert clocks.read() is None


def test_a_gpu_without_nvml_is_measured_without_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: NvmlClocks) -> None:
        raise RuntimeError("NVML is not there")

    monkeypatch.setattr(NvmlClocks, "__init__", broken)
    assert isinstance(make_clocks("cuda"), NoClocks)


def test_a_call_time_is_watched_too() -> None:
    seen: list[object] = []

    class Watch(NoCallWatch):
        def before(self) -> None:
            seen.append("before")

        def after(self, result: object) -> None:
            seen.append(result)

    CpuTimer().call(lambda: seen.append("call") or "result", Watch())
    assert seen == ["before", "call", "result"]
