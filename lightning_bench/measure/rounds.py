"""Interleaved timing: cases of one shape take turns in shuffled rounds, so that drift affects all equally."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from lightning_bench.measure.device.call_watch import CallWatch, NoCallWatch
from lightning_bench.measure.device.clocks import ClockReading, Clocks
from lightning_bench.measure.device.timer import TimedCall, Timer
from lightning_bench.measure.foreign import Foreign, NoForeign
from lightning_bench.measure.job import Enter
from lightning_bench.measure.sampling import FEWEST, Sampler, StopRule

_SLOT_MS = 20.0
_MAX_SLOT_SAMPLES = 5  # few, so that even the fewest samples come from several rounds
_STABLE_PERCENT = 2.0
_WARM_BATCHES = 12
_CALL_SAMPLES = 30
_CALL_WARM_UPS = 3
_CALL_SECONDS = 0.3


@dataclass
class Task:
    """One case being timed: its call, its samples in ms, call times in ms and clock readings.

    `turns` are the numbers of samples kept of one turn, in order; their sum is the number of samples.
    """

    key: str
    fn: TimedCall
    sampler: Sampler
    watch: CallWatch = field(default_factory=NoCallWatch)
    turns: list[int] = field(default_factory=list)
    readings: list[ClockReading] = field(default_factory=list)
    call_samples: list[float] = field(default_factory=list)
    estimate_ms: float = 0.0

    @classmethod
    def of(cls, key: str, fn: TimedCall, rule: StopRule, watch: CallWatch | None = None) -> Task:
        """Return a task that has no samples yet."""
        return cls(key, fn, Sampler(rule), watch or NoCallWatch())

    @property
    def slot(self) -> int:
        """Number of samples to take in one turn."""
        return max(1, min(_MAX_SLOT_SAMPLES, int(_SLOT_MS / max(self.estimate_ms, 1e-3))))


def warm_up(task: Task, timer: Timer, limit_s: float) -> None:
    """Call until two batches in a row agree with the previous one within 2 %, or the time is up."""
    begin = timer.now()
    task.watch.begins()
    task.estimate_ms = timer.sample(task.fn, 1, task.watch)[0]
    previous, agreed = task.estimate_ms, 0
    for _ in range(_WARM_BATCHES):
        if agreed >= 2 or timer.now() - begin >= limit_s:
            break
        median = float(np.median(timer.sample(task.fn, task.slot, task.watch)))
        agreed = agreed + 1 if abs(median - previous) <= _STABLE_PERCENT / 100 * previous else 0
        previous = task.estimate_ms = median
    task.watch.ends()


def take_turn(task: Task, timer: Timer) -> None:
    """Add the samples of one turn, but no more than are still allowed; throttled ones may not count."""
    begin = timer.now()
    most = max(FEWEST, task.sampler.rule.max_samples)
    count = min(task.slot, most - len(task.sampler.samples))
    task.watch.begins()
    samples = timer.sample(task.fn, count, task.watch)
    kept = task.sampler.add(samples, timer.now() - begin, timer.clocks())
    task.watch.ends()
    if kept:
        task.turns.append(kept)


def run_rounds(
    tasks: Sequence[Task],
    timer: Timer,
    clocks: Clocks,
    *,
    seed: int,
    enter: Enter = lambda key, phase: None,
    foreign: Foreign | None = None,
) -> None:
    """Sample every task to its stop rule, then time its calls.

    `enter` is called before each turn, so that a watcher knows which case hangs; `foreign` reads the load
    beside each turn.
    """
    foreign = foreign or NoForeign()
    sample_rounds(tasks, timer, clocks, seed=seed, enter=enter, foreign=foreign)
    for task in tasks:
        if task.watch.failure is not None:
            continue
        enter(task.key, "samples")
        foreign.begins(task.key)
        task.watch.begins(certain=True)
        begin = timer.now()
        for _ in range(_CALL_WARM_UPS):
            if timer.now() - begin > _CALL_SECONDS:
                break
            timer.call(task.fn, task.watch)
        begin = timer.now()
        while len(task.call_samples) < _CALL_SAMPLES:
            task.call_samples.append(timer.call(task.fn, task.watch))
            if len(task.call_samples) >= 3 and timer.now() - begin > _CALL_SECONDS:
                break
        task.watch.ends()
        foreign.ends(task.key)
    foreign.settle()


def sample_rounds(
    tasks: Sequence[Task],
    timer: Timer,
    clocks: Clocks,
    *,
    seed: int,
    enter: Enter = lambda key, phase: None,
    foreign: Foreign | None = None,
) -> None:
    """Sample every task to its stop rule: each round gives each task one turn, in a new order.

    A task that fails its watch takes no more turns.
    """
    rng = random.Random(seed)
    foreign = foreign or NoForeign()
    active = list(tasks)
    while active:
        rng.shuffle(active)
        for task in active:
            enter(task.key, "samples")
            foreign.begins(task.key)
            take_turn(task, timer)
            foreign.ends(task.key)
            reading = clocks.read()
            if reading is not None:
                task.readings.append(reading)
        active = [task for task in active if not task.sampler.done and task.watch.failure is None]
    foreign.settle()
