"""Windows of energy: one case alone on the device for seconds, beside how much the device needs at rest.

In every round each case has one window, in a new order. A window begins after the device has cooled down,
and what it needs at rest is read just before. Nothing but calls is in a window: no flush, no audit, and no
waiting but once in a tenth of a second.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning_bench.measure.device.call_watch import CallWatch
from lightning_bench.measure.device.clocks import ClockReading, Clocks
from lightning_bench.measure.device.energy import Energy
from lightning_bench.measure.foreign import Foreign
from lightning_bench.measure.job import Enter
from lightning_bench.suite.model import LONGEST_COOLING_S

SPREAD_LIMIT_PERCENT = 5.0
"""Windows of a case that differ by more give figures that are unstable."""

_CHUNK_MS, _MOST_IN_CHUNK = 100.0, 1000
# A device that was warmer at the start of a window needs more: leakage grows with temperature.
_WARMER_C = 5.0

_now, _sleep = time.perf_counter, time.sleep


@dataclass(frozen=True)
class WindowRule:
    """How many windows, the seconds of each, and of the rest that is read before it.

    Before that rest the device cools down for half as long at least.
    """

    windows: int
    window_s: float
    rest_s: float


@dataclass(frozen=True)
class EnergyWindow:
    """What one window took: calls, seconds and joules, and the watts of the device at rest before it."""

    calls: int
    seconds: float
    joules: float
    rest_w: float

    @property
    def call_ms(self) -> float:
        """Time of a call, ms."""
        return 1e3 * self.seconds / self.calls

    @property
    def call_mj(self) -> float:
        """Energy of a call beyond what the device needs at rest, mJ."""
        return 1e3 * (self.joules - self.rest_w * self.seconds) / self.calls


@dataclass
class EnergyTask:
    """One case: its call, about how long it takes, the watch over it, and its windows so far."""

    key: str
    fn: Callable[[], Any]
    estimate_ms: float
    watch: CallWatch
    windows: list[EnergyWindow] = field(default_factory=list)
    readings: list[ClockReading] = field(default_factory=list)

    @property
    def median_ms(self) -> float:
        """The time of a call, the median over the windows, of which there must be one."""
        return statistics.median(window.call_ms for window in self.windows)

    @property
    def spread_percent(self) -> float:
        """The largest less the smallest energy of a call, in per cent of the median."""
        each = [window.call_mj for window in self.windows]
        middle = statistics.median(each)
        return 100.0 * (max(each) - min(each)) / middle if middle > 0 else float("inf")


class EnergyRounds:
    """Takes the windows of several cases on one device; `synchronize` waits for it."""

    def __init__(
        self,
        rule: WindowRule,
        energy: Energy,
        clocks: Clocks,
        foreign: Foreign,
        synchronize: Callable[[], None],
    ) -> None:
        self._rule, self._energy, self._clocks = rule, energy, clocks
        self._foreign, self._synchronize = foreign, synchronize
        self._cold_c: float | None = None

    def run(self, tasks: Sequence[EnergyTask], *, seed: int, enter: Enter) -> None:
        """Give each task its windows; one that fails its watch takes no more."""
        rng = random.Random(seed)
        for _ in range(self._rule.windows):
            active = [task for task in tasks if task.watch.failure is None]
            rng.shuffle(active)
            for task in active:
                enter(task.key, "cool-down")
                rest_w = self._rested()
                enter(task.key, "samples")
                task.watch.begins(certain=True)
                task.watch.before()
                self._foreign.begins(task.key)
                window, result = self._window(task, rest_w)
                self._foreign.ends(task.key)
                task.watch.after(result)
                del result
                task.watch.ends()
                task.windows.append(window)
        self._foreign.settle()

    def _rested(self) -> float:
        """Let the device cool down. Return what it needs at rest, W."""
        rule, begin = self._rule, _now()
        self._synchronize()
        _sleep(rule.rest_s / 2)
        while self._is_warm() and _now() - begin < LONGEST_COOLING_S:
            _sleep(rule.rest_s / 8)
        start, joules = _now(), self._joules()
        _sleep(rule.rest_s)
        return (self._joules() - joules) / (_now() - start)

    def _is_warm(self) -> bool:
        reading = self._clocks.read()
        if reading is None:
            return False
        if self._cold_c is None:
            self._cold_c = reading.temperature_c
        return reading.temperature_c > self._cold_c + _WARMER_C

    def _window(self, task: EnergyTask, rest_w: float) -> tuple[EnergyWindow, Any]:
        """Call without a pause for the time of a window. Return it, and the result of the last call."""
        fn, now, synchronize = task.fn, _now, self._synchronize
        chunk = max(1, min(_MOST_IN_CHUNK, int(_CHUNK_MS / max(task.estimate_ms, 1e-3))))
        before = len(task.readings)
        synchronize()
        calls, begin, joules = 0, now(), self._joules()
        while now() - begin < self._rule.window_s:
            for _ in range(chunk):
                result = fn()
            # Read while the device is busy, and seldom: it waits for the next call meanwhile.
            due = begin + len(task.readings) - before < now()
            if due and (reading := self._clocks.read()) is not None:
                task.readings.append(reading)
            synchronize()
            calls += chunk
        after, end = self._joules(), now()
        return EnergyWindow(calls, end - begin, after - joules, rest_w), result

    def _joules(self) -> float:
        read = self._energy.read_j()
        assert read is not None  # a case without a counter does not come here
        return read
