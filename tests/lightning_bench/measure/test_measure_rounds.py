"""Warm-up and interleaved rounds, on a fake timer whose clock is moved by the fake calls alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, repeat

import numpy as np
import pytest

from lightning_bench.measure.device.call_watch import CallWatch
from lightning_bench.measure.device.clocks import ClockReading, NoClocks
from lightning_bench.measure.device.stream_clock import SampleClock
from lightning_bench.measure.rounds import Task, run_rounds, warm_up
from lightning_bench.measure.sampling import StopRule

MANY = StopRule(ci_percent=1.0, min_samples=200, max_samples=200, sample_limit_s=1e9)
QUICK = StopRule(ci_percent=1.0, min_samples=20, max_samples=100, sample_limit_s=1e9)


class FakeTimer:
    """A call returns how many ms it took at full speed; `speed` says how fast the device is by then."""

    def __init__(self, speed: Callable[[float], float] = lambda seconds: 1.0, launch_ms: float = 0.5) -> None:
        self.seconds = 0.0
        self.turns: list[tuple[Callable[[], float], int]] = []
        self.calls = 0
        self.clock_script: Iterator[SampleClock] | None = None
        self._speed, self._launch_ms = speed, launch_ms

    def sample(self, fn: Callable[[], float], count: int, watch: CallWatch) -> list[float]:
        assert len(self.turns) < 2000, "it does not end"
        self.turns.append((fn, count))
        return [self._run(fn) for _ in range(count)]

    def call(self, fn: Callable[[], float], watch: CallWatch) -> float:
        self.calls += 1
        ms = self._run(fn) + self._launch_ms
        self.seconds += self._launch_ms / 1e3
        return ms

    def clocks(self) -> list[SampleClock | None]:
        return [next(self.clock_script) for _ in range(self.turns[-1][1])] if self.clock_script else []

    def exposed(self, fn: Callable[[], float]) -> bool:
        return False

    def empty_us(self) -> None:
        return

    def now(self) -> float:
        return self.seconds

    def release(self) -> None:
        pass

    def _run(self, fn: Callable[[], float]) -> float:
        ms = fn() / self._speed(self.seconds)
        self.seconds += ms / 1e3
        return ms


class FakeClocks:
    def __init__(self) -> None:
        self.count = 0

    def read(self) -> ClockReading:
        self.count += 1
        return ClockReading(1000.0 + self.count, 300.0, 40.0, 0)


def scripted(*times: float, then: float) -> Callable[[], float]:
    script: Iterator[float] = chain(times, repeat(then))
    return lambda: next(script)


def task(key: str, ms: float, rule: StopRule = QUICK) -> Task:
    task = Task.of(key, lambda: ms, rule)
    task.estimate_ms = ms
    return task


def measure(tasks: list[Task], timer: FakeTimer, seed: int = 0) -> list[tuple[str, int]]:
    """Run the rounds and give the turns as (key, samples)."""
    keys = {id(timed.fn): timed.key for timed in tasks}
    run_rounds(tasks, timer, NoClocks(), seed=seed)
    return [(keys[id(fn)], count) for fn, count in timer.turns]


def test_every_round_gives_each_task_one_turn_in_changing_order() -> None:
    tasks = [task(name, 1.0, MANY) for name in "abcd"]
    turns = [key for key, _ in measure(tasks, FakeTimer())]
    rounds = [tuple(turns[i : i + 4]) for i in range(0, len(turns), 4)]
    assert len(rounds) == 40
    assert all(sorted(keys) == list("abcd") for keys in rounds)
    assert len(set(rounds)) >= 12
    assert {keys[0] for keys in rounds} == set("abcd")
    assert all(len(timed.sampler.samples) == 200 for timed in tasks)


def test_the_seed_decides_the_order() -> None:
    orders = [measure([task(name, 1.0) for name in "abcd"], FakeTimer(), seed) for seed in (0, 0, 1)]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]


def test_a_task_that_is_done_gets_no_more_turns() -> None:
    quick = task("quick", 1.0)
    spread = task("spread", 1.0)
    spread.fn = scripted(*[1.0, 2.0] * 25, then=1.5)
    turns = [key for key, _ in measure([quick, spread], FakeTimer())]
    assert turns.count("quick") == 4
    assert turns.count("spread") > 10
    assert "quick" not in turns[8:]
    assert len(quick.sampler.samples) == 20


def test_every_sample_and_its_time_are_kept() -> None:
    timed = Task.of("one", scripted(*map(float, range(1, 101)), then=0.0), QUICK)
    timed.estimate_ms = 1.0
    measure([timed], FakeTimer())
    assert timed.sampler.samples == list(map(float, range(1, 101)))
    assert timed.sampler.seconds == pytest.approx(5.05)


def test_the_time_limit_is_each_tasks_own() -> None:
    rule = StopRule(ci_percent=1e-9, min_samples=6, max_samples=1000, sample_limit_s=1.0)
    slow, fast = task("slow", 100.0, rule), task("fast", 1.0, rule)
    slow.fn, fast.fn = scripted(*[90.0, 110.0] * 500, then=1.0), scripted(*[0.9, 1.1] * 500, then=1.0)
    measure([slow, fast], FakeTimer())
    assert len(slow.sampler.samples) == 10
    assert len(fast.sampler.samples) >= 995


@pytest.mark.parametrize(("ms", "slot"), [(0.001, 5), (4.0, 5), (5.0, 4), (19.0, 1), (500.0, 1)])
def test_slow_calls_take_fewer_samples_per_turn(ms: float, slot: int) -> None:
    assert {count for _, count in measure([task("one", ms)], FakeTimer())} == {slot}


def test_never_more_samples_than_allowed() -> None:
    rule = StopRule(ci_percent=1e-9, min_samples=6, max_samples=13, sample_limit_s=1e9)
    timed = task("one", 1.0, rule)
    timed.fn = scripted(*[1.0, 2.0] * 20, then=1.0)
    measure([timed], FakeTimer())
    assert len(timed.sampler.samples) == 13


@pytest.mark.parametrize("most", [1, 3, 5, 6])
def test_fewer_than_six_samples_allowed_still_ends_with_six(most: int) -> None:
    rule = StopRule(ci_percent=1.0, min_samples=1, max_samples=most, sample_limit_s=1e9)
    timed = task("one", 1.0, rule)
    measure([timed], FakeTimer())
    assert len(timed.sampler.samples) == 6


def test_drift_affects_all_equally() -> None:
    """The device slows to half its speed two fifths into the work."""

    def ratio(interleaved: bool) -> float:
        timer = FakeTimer(lambda seconds: 1.0 if seconds < 0.25 else 0.5)
        short, long = task("short", 1.0, MANY), task("long", 2.0, MANY)
        for group in [[short, long]] if interleaved else [[short], [long]]:
            run_rounds(group, timer, NoClocks(), seed=0)
        return float(np.median(long.sampler.samples) / np.median(short.sampler.samples))

    assert ratio(interleaved=True) == pytest.approx(2.0, rel=0.01)
    assert ratio(interleaved=False) > 3.5


def test_enter_is_called_before_each_turn() -> None:
    timer = FakeTimer()
    log: list[str] = []

    def call(key: str) -> Callable[[], float]:
        def fn() -> float:
            log.append(f"call {key}")
            return 1.0

        return fn

    tasks = [Task.of(key, call(key), QUICK) for key in "ab"]
    for timed in tasks:
        timed.estimate_ms = 1.0
    run_rounds(tasks, timer, NoClocks(), seed=0, enter=lambda key, phase: log.append(f"enter {key} {phase}"))
    turn = ""
    for line in log:
        if line.startswith("enter"):
            turn = line
        else:
            assert turn == f"enter {line[-1]} samples"
    # Four turns of five samples each, then one turn of call times.
    assert sum(line.startswith("enter") for line in log) == 2 * (4 + 1)


def test_clocks_are_read_once_a_turn() -> None:
    clocks, tasks = FakeClocks(), [task(key, 1.0) for key in "ab"]
    run_rounds(tasks, FakeTimer(), clocks, seed=0)
    assert [len(timed.readings) for timed in tasks] == [4, 4]
    assert clocks.count == 8
    assert {r.sm_clock_mhz for timed in tasks for r in timed.readings} == {1000.0 + i for i in range(1, 9)}
    quiet = task("c", 1.0)
    run_rounds([quiet], FakeTimer(), NoClocks(), seed=0)
    assert quiet.readings == []


def test_call_times_are_taken_apart_from_the_samples() -> None:
    timed = task("one", 2.0)
    run_rounds([timed], FakeTimer(launch_ms=0.5), NoClocks(), seed=0)
    assert timed.call_samples == [2.5] * 30
    assert timed.sampler.samples == [2.0] * 20


def test_the_first_calls_of_a_caller_do_not_count() -> None:
    timer, timed = (
        FakeTimer(launch_ms=0.5),
        Task.of("one", scripted(*[2.0] * 20, 9.0, 5.0, 3.0, then=2.0), QUICK),
    )
    timed.estimate_ms = 2.0
    run_rounds([timed], timer, NoClocks(), seed=0)
    assert timed.call_samples == [2.5] * 30
    assert timer.calls == 33


def test_throttled_samples_are_taken_again_and_counted() -> None:
    timer, timed = FakeTimer(), Task.of("one", scripted(*[9.0] * 7, then=1.0), QUICK)
    timed.estimate_ms = 1.0
    low, high = SampleClock(1000.0, True), SampleClock(1980.0, False)
    timer.clock_script = chain([low] * 7, repeat(high))
    run_rounds([timed], timer, NoClocks(), seed=0)
    assert timed.sampler.samples == [1.0] * 23
    assert timed.sampler.throttled == 7
    # Of the first turn nothing counts, and of the second three samples. Turns are of five until 20 count.
    assert timed.turns == [3, 5, 5, 5, 5]


def test_sampling_ends_though_every_sample_is_throttled() -> None:
    for limit_s in (1e9, 0.01):
        rule = StopRule(ci_percent=1.0, min_samples=20, max_samples=100, sample_limit_s=limit_s)
        timer, timed = FakeTimer(), task("one", 1.0, rule)
        timer.clock_script = repeat(SampleClock(1000.0, True))
        run_rounds([timed], timer, NoClocks(), seed=0)
        assert len(timed.sampler.samples) >= 6
        assert sum(timed.turns) == len(timed.sampler.samples)
        assert timed.sampler.dropped <= 20
        assert timed.sampler.throttled == len(timed.sampler.samples) + timed.sampler.dropped
        assert (timed.sampler.trouble() or "").startswith("the GPU was throttled in ")


@pytest.mark.parametrize(("ms", "count"), [(50.0, 6), (1000.0, 3)])
def test_call_times_of_slow_calls_stop_early(ms: float, count: int) -> None:
    timed = task("one", ms)
    run_rounds([timed], FakeTimer(), NoClocks(), seed=0)
    assert len(timed.call_samples) == count


def test_no_tasks_are_no_work() -> None:
    timer = FakeTimer()
    run_rounds([], timer, NoClocks(), seed=0)
    assert timer.seconds == 0


def test_warm_up_stops_when_two_batches_agree() -> None:
    timer, timed = FakeTimer(), Task.of("one", scripted(900.0, 60.0, 30.0, 25.0, then=20.0), QUICK)
    warm_up(timed, timer, 1e9)
    # 900, 60, 30 and 25 one at a time, as each is slower than a slot; 20 disagrees, and twice agrees.
    assert [count for _, count in timer.turns] == [1] * 7
    assert timed.estimate_ms == 20.0
    assert timed.sampler.samples == []


def test_warm_up_of_a_stable_call_is_short() -> None:
    timer, timed = FakeTimer(), Task.of("one", scripted(1.0, 1.01, then=1.0), QUICK)
    warm_up(timed, timer, 1e9)
    assert [count for _, count in timer.turns] == [1, 5, 5]
    assert timed.estimate_ms == 1.0


def test_one_agreement_after_a_change_is_not_enough() -> None:
    timer, timed = FakeTimer(), Task.of("one", scripted(100.0, 100.0, 50.0, 50.0, 50.0, then=1.0), QUICK)
    warm_up(timed, timer, 1e9)
    assert len(timer.turns) == 5


def test_warm_up_stops_at_its_limit() -> None:
    timer, timed = (
        FakeTimer(),
        Task.of("one", scripted(*(1000.0 * 1.1**i for i in range(20)), then=1.0), QUICK),
    )
    warm_up(timed, timer, 3.0)
    assert 3.0 <= timer.seconds < 3.5
    assert timed.estimate_ms == pytest.approx(1210.0)


def test_warm_up_of_a_call_that_never_settles_ends() -> None:
    timer, timed = FakeTimer(), Task.of("one", scripted(*(30.0 * 1.1**i for i in range(99)), then=1.0), QUICK)
    warm_up(timed, timer, 1e9)
    assert len(timer.turns) == 13
