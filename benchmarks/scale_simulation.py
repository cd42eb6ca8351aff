"""How the driver of `--gpus` scales: 10,000 cases on 1 to 512 slots that only pretend to measure.

    python benchmarks/scale_simulation.py results/cpu/scale-simulation.csv [--cases 10000] [--seed 1]

The driver is the real one: its plan, its dispatch, the executor of SLURM with a connection per slot, its
rows and samples into a CSV, and its progress on a terminal of 50 lines. The slots are not: a shape of ten
cases takes as long as one of fourteen took in results/h200/paper-speed.csv, drawn at random, and the first
one on a slot also what three workers take to start here, which is measured. Each outcome comes in a message
of its own, and phases as often as a slot may report them. Time is virtual but for the driver's: the CPU
time, of the kernel too, that it takes to handle a message or to draw passes in full, and messages wait
meanwhile.

One row per number of slots. `ideal_s` is the shapes' time over the slots, `makespan_s` what passed until
the last row, `efficiency_percent` their ratio: with few shapes per slot some are idle at the end, whatever
the driver does. `driver_percent` is the driver's CPU time over the makespan, `drawing_percent` the part of
it that draws, and `delayed_percent` the slots' time spent waiting for it. `driver_ms` is its time per case
without drawing, `rows_per_s` what it could write if slots took no time, `growth_kib` what each row adds to
its memory. `case_s` is the mean time that a case took its slot, `median_case_s` that of the median shape, and
`least_case_s` the shortest with which the driver takes 5 % of the time while all slots measure.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import math
import os
import random
import resource
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
from rich.console import Console
from rows import write_rows

from lightning_bench.case import Case, Shape
from lightning_bench.machine import describe_machine
from lightning_bench.machine.place import Place
from lightning_bench.measure.job import CaseSamples, Figures, Job, Outcome
from lightning_bench.providers import provider_names
from lightning_bench.record import ResultFile
from lightning_bench.run.across import across
from lightning_bench.run.executor import CaseEntered, CaseMeasured, JobFinished, Slot, SlotEvent, Unit
from lightning_bench.run.lane import Crew, Lane
from lightning_bench.run.plan import Plan, with_providers
from lightning_bench.run.progress import DRAWN_PER_S, LiveWatcher
from lightning_bench.run.slot_host import report_pause_s
from lightning_bench.run.slurm_executor import SlurmExecutor
from lightning_bench.run.sweep import run_sweep
from lightning_bench.suite import Limits

MEASURED = Path("results/h200/paper-speed.csv")
SLOTS = (1, 4, 16, 64, 128, 256, 512)
PER_SHAPE = 10
PROCESSES = 3
SAMPLES = 100
SHARE = 0.05
SHAPE = Shape(1, 1, 64, 16, 16, "fp32", "cpu")
TERMINAL = {"force_terminal": True, "width": 150, "height": 50}


class Clock:
    """Virtual time. What the driver does in the process passes in it, what plays the slots does not."""

    def __init__(self, watcher: LiveWatcher) -> None:
        self.now_s = self.driver_s = self.drawing_s = 0.0
        self._watcher = watcher
        self._since = time.process_time()
        self._drawn_s = 0.0

    def driver_did(self) -> None:
        """Let as much time pass as the driver has taken since it went on, and draw if it is time to."""
        self._pass(time.process_time() - self._since)
        self._draw()
        self.driver_goes_on()

    def driver_goes_on(self) -> None:
        """Count from now on as the driver's."""
        self._since = time.process_time()

    def reach(self, time_s: float) -> float:
        """Let the driver wait until then; return how long it has let that wait."""
        late = max(0.0, self.now_s - time_s)
        self.now_s = max(self.now_s, time_s)
        self._draw()
        return late

    def _pass(self, seconds: float) -> None:
        self.driver_s += seconds
        self.now_s += seconds

    def _draw(self) -> None:
        """Draw once, and count that as often as the time since the last time was long enough for it."""
        due = math.floor((self.now_s - self._drawn_s) * DRAWN_PER_S)
        if due:
            self._drawn_s += due / DRAWN_PER_S
            begin = time.process_time()
            self._watcher.draw()
            seconds = due * (time.process_time() - begin)
            self.drawing_s += seconds
            self._pass(seconds)


class PlayedWatcher(LiveWatcher):
    """Draws when it is told to, not as often as real time would have it."""

    def _draw_on(self) -> None:
        return


class PlayedTasks:
    """The far ends of SLURM's executor, which write what tasks would, in virtual time."""

    def __init__(self, count: int, durations_s: Sequence[float], start_s: float, clock: Clock) -> None:
        machine = describe_machine("cpu")
        slots = [Slot(f"node{number} pid 1", machine, Place(), f"slurm {count}") for number in range(count)]
        pairs = {slot: Pipe() for slot in slots}
        self._far: dict[Slot, Connection[Any, Any]] = {slot: far for slot, (_, far) in pairs.items()}
        self._executor = SlurmExecutor({slot: near for slot, (near, _) in pairs.items()}, Crew("cpu"))
        for far in self._far.values():
            far.recv()
        self._durations, self._start_s = iter(durations_s), start_s
        self._pause_s = report_pause_s(count)
        self._fresh = set(slots)
        self._due: list[tuple[float, int, list[SlotEvent], float]] = []
        self._number = itertools.count()
        self._clock = clock
        self.delayed_s = 0.0

    def slots(self) -> Sequence[Slot]:
        """Return all slots."""
        return self._executor.slots()

    def submit(self, slot: Slot, unit: Unit) -> None:
        """Let the unit end after the next duration."""
        self._executor.submit(slot, unit)
        self._clock.driver_did()
        job = self._far[slot].recv().job
        begin_s = self._clock.now_s
        end_s = begin_s + next(self._durations) + (self._start_s if slot in self._fresh else 0.0)
        self._fresh.discard(slot)
        messages: list[list[SlotEvent]] = [[CaseMeasured(slot, measured(case))] for case in job.cases]
        messages[-1].append(JobFinished(slot, Counter(samples=1.0)))
        for message in messages:
            self._plan(end_s, end_s, message)
        self._plan_phase(begin_s + self._pause_s, end_s, CaseEntered(slot, job.cases[0].id, "samples"))
        self._clock.driver_goes_on()

    def events(self) -> Iterator[SlotEvent]:
        """Yield what the driver reads of what the tasks write, in order of its time."""
        events = self._executor.events()
        while self._due:
            time_s, _, message, end_s = heapq.heappop(self._due)
            self._clock.driver_did()
            late_s = self._clock.reach(time_s)
            if isinstance(message[0], CaseEntered):
                self._plan_phase(time_s + self._pause_s, end_s, message[0])
            elif isinstance(message[-1], JobFinished):
                self.delayed_s += late_s
            self._far[message[0].slot].send(message)
            self._clock.driver_goes_on()
            for _ in message:
                yield next(events)
            self._clock.driver_did()

    def close(self) -> None:
        """Forget what has not ended."""
        self._due.clear()
        self._executor.close()
        for far in self._far.values():
            far.close()

    def _plan(self, time_s: float, end_s: float, message: list[SlotEvent]) -> None:
        heapq.heappush(self._due, (time_s, next(self._number), message, end_s))

    def _plan_phase(self, time_s: float, end_s: float, phase: CaseEntered) -> None:
        """Have a slot say what its case does, unless its unit has ended by then."""
        if time_s < end_s:
            self._plan(time_s, end_s, [phase])


def measured(case: Case) -> Outcome:
    """Return what three processes could have measured of a case."""
    return replace(DRAWN, case=case)


def drawn(case: Case, seed: int) -> Outcome:
    """Return what one process could have measured of a case."""
    draw = random.Random(seed)
    times = [draw.lognormvariate(0.0, 0.01) for _ in range(SAMPLES)]
    clocks = [{"sm_clock_mhz": 1980.0, "power_w": 650.0, "temperature_c": 50.0}] * 20
    samples = CaseSamples(times, [5] * (SAMPLES // 5), times[:20], clocks)
    figures = Figures(median_ms=1.0, ci_low_ms=0.999, ci_high_ms=1.001, samples=SAMPLES, error_o=1e-3)
    return Outcome(case, "ok", figures=figures, samples=samples)


DRAWN = across([drawn(Case(SHAPE, "sdpa-math", "fwd"), seed).sealed for seed in range(PROCESSES)])


def started_s(plan: Plan) -> float:
    """Return how long three workers take to start here, one after the other."""
    lane = Lane(Crew("cpu", PROCESSES))
    cases = [case for case in plan.cases if case.shape == plan.cases[0].shape][:1]
    try:
        lane.measure(Job(tuple(cases), "speed", "lbench", Limits()), lambda _: None, lambda *_: None)
        return lane.seconds["start"]
    finally:
        lane.close()


def made_up_plan(cases: int) -> Plan:
    """Return a plan of shapes with ten providers each."""
    names = [name for name in provider_names() if name.endswith("-torch")][:PER_SHAPE]
    shapes = [replace(SHAPE, seq_len=64 + number) for number in range(cases // len(names))]
    made = tuple(Case(shape, name, "fwd") for shape in shapes for name in names)
    limits = Limits(processes=PROCESSES)
    return with_providers(Plan("scale", "speed", "lbench", limits, describe_machine("cpu"), "cpu", made))


def measured_durations() -> list[float]:
    """Return how long each shape of the committed run took, s; its first shape is left out."""
    rows = pd.read_csv(MEASURED, parse_dates=["time_utc"])
    shape = rows.groupby(["batch", "heads", "seq_len", "head_dim", "dtype"], sort=False).ngroup()
    ends = rows["time_utc"].groupby((shape != shape.shift()).cumsum()).max()
    return [seconds for seconds in ends.diff().dt.total_seconds().dropna() if seconds > 0]


def simulated(plan: Plan, count: int, durations_s: Sequence[float], start_s: float) -> dict[str, object]:
    """Return the row of one number of slots."""
    process, cases = psutil.Process(), len(plan.cases)
    with tempfile.TemporaryDirectory(prefix="lbench-scale-") as folder, open(os.devnull, "w") as terminal:
        path = Path(folder) / "scale.csv"
        watcher = PlayedWatcher(Console(file=terminal, **TERMINAL), "scale speed")
        clock = Clock(watcher)
        with ResultFile(path) as file, watcher:
            tasks = PlayedTasks(count, durations_s, start_s, clock)
            before = process.memory_info().rss
            clock.driver_goes_on()
            summary = run_sweep(plan, file, watcher, executor=tasks)
            clock.driver_did()
            after = process.memory_info().rss
            tasks.close()
        assert len(summary.records) == cases
        written = sum(each.stat().st_size for each in Path(folder).iterdir())
    total = sum(durations_s) + start_s * min(count, len(durations_s))
    makespan, busy = clock.now_s, clock.driver_s - clock.drawing_s
    drawing = clock.drawing_s / makespan
    return {
        "slots": count,
        "cases": cases,
        "shapes": len(durations_s),
        "ideal_s": f"{total / count:.1f}",
        "makespan_s": f"{makespan:.1f}",
        "efficiency_percent": f"{100 * total / count / makespan:.1f}",
        "driver_percent": f"{100 * clock.driver_s / makespan:.2f}",
        "drawing_percent": f"{100 * drawing:.2f}",
        "delayed_percent": f"{100 * tasks.delayed_s / (count * makespan):.3f}",
        "driver_ms": f"{1e3 * busy / cases:.3f}",
        "rows_per_s": f"{cases / busy:.0f}",
        "case_s": f"{sum(durations_s) / cases:.2f}",
        "median_case_s": f"{statistics.median(durations_s) / PER_SHAPE:.2f}",
        "least_case_s": f"{count * busy / cases / (SHARE - drawing):.2f}",
        "growth_kib": f"{max(0, after - before) / 1024 / cases:.2f}",
        "written_mib": f"{written / 2**20:.0f}",
        "start_s": f"{start_s:.2f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # two per slot
    plan = made_up_plan(asked.cases)
    start_s = started_s(replace(plan, limits=Limits()))
    draw = random.Random(asked.seed)
    durations = draw.choices(measured_durations(), k=len({case.shape for case in plan.cases}))
    rows = []
    for count in SLOTS:
        rows.append(simulated(plan, count, durations, start_s))
        print(rows[-1], flush=True)
    write_rows(asked.out, rows)


if __name__ == "__main__":
    main()
