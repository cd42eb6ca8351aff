"""How the driver of `--gpus` scales: 10,000 cases on 1 to 512 slots that only pretend to measure.

    python benchmarks/scale_simulation.py results/cpu/scale-simulation.csv [--cases 10000] [--seed 1]

The driver is the real one: its plan, its dispatch, its rows and samples into a CSV. The slots are not: a
shape of ten cases takes as long as one of fourteen took in results/h200/paper-speed.csv, drawn at random, and
the first one on a slot also what three workers take to start here, which is measured. Time is virtual but for
the driver's: the CPU time that it takes to handle an event passes in full, and events wait meanwhile.

One row per number of slots. `ideal_s` is the shapes' time over the slots, `makespan_s` what passed until
the last row, `efficiency_percent` their ratio: with few shapes per slot some are idle at the end, whatever
the driver does. `driver_percent` is the share of the makespan in which the driver was busy, and
`delayed_percent` the slots' time spent waiting for it. `driver_ms` is its time per case, `rows_per_s` what it
could write if slots took no time, `growth_kib` what each row adds to its memory.
"""

from __future__ import annotations

import argparse
import heapq
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import psutil
from rows import write_rows

from lightning_bench.case import Case, Shape
from lightning_bench.machine import describe_machine
from lightning_bench.machine.place import Place
from lightning_bench.measure.job import CaseSamples, Figures, Job, Outcome
from lightning_bench.providers import provider_names
from lightning_bench.record import ResultFile
from lightning_bench.run.executor import CaseEntered, CaseMeasured, JobFinished, Slot, SlotEvent, Unit
from lightning_bench.run.lane import Crew, Lane
from lightning_bench.run.plan import Plan, with_providers
from lightning_bench.run.progress import QuietWatcher
from lightning_bench.run.sweep import run_sweep
from lightning_bench.suite import Limits

MEASURED = Path("results/h200/paper-speed.csv")
SLOTS = (1, 4, 16, 64, 128, 256, 512)
PER_SHAPE = 10
PROCESSES = 3
SAMPLES = 100
SHAPE = Shape(1, 1, 64, 16, 16, "fp32", "cpu")
PHASES = ("load", "oracle", "check", "warm-up", "samples")


class VirtualExecutor:
    """Slots in virtual time; between two events passes what the driver really takes."""

    def __init__(self, count: int, durations_s: Sequence[float], start_s: float) -> None:
        machine = describe_machine("cpu")
        self._slots = [Slot(f"slot {number}", machine, Place(), f"local {count}") for number in range(count)]
        self._durations, self._start_s = iter(durations_s), start_s
        self._fresh = set(self._slots)
        self._ends: list[tuple[float, int, Slot, Unit]] = []
        self._number = 0
        self.now_s = self.driver_s = self.delayed_s = 0.0
        self._since = time.process_time()

    def slots(self) -> Sequence[Slot]:
        """Return all slots."""
        return list(self._slots)

    def submit(self, slot: Slot, unit: Unit) -> None:
        """Let the unit end after the next duration."""
        self._pass()
        seconds = next(self._durations) + (self._start_s if slot in self._fresh else 0.0)
        self._fresh.discard(slot)
        self._number += 1
        heapq.heappush(self._ends, (self.now_s + seconds, self._number, slot, unit))

    def events(self) -> Iterator[SlotEvent]:
        """Yield what would happen, in order of its time."""
        while self._ends:
            end_s, _, slot, unit = heapq.heappop(self._ends)
            self._pass()
            self.delayed_s += max(0.0, self.now_s - end_s)
            self.now_s = max(self.now_s, end_s)
            for case in unit.job.cases:
                for phase in PHASES:
                    yield from self._told(CaseEntered(slot, case.id, phase))
                yield from self._told(CaseMeasured(slot, outcomes(case)))
            yield from self._told(JobFinished(slot, Counter(samples=1.0)))

    def close(self) -> None:
        """Forget what has not ended."""
        self._ends.clear()

    def _told(self, event: SlotEvent) -> Iterator[SlotEvent]:
        self._since = time.process_time()
        yield event
        self._pass()

    def _pass(self) -> None:
        """Let as much time pass as the driver has taken since it was told something."""
        now = time.process_time()
        self.driver_s += now - self._since
        self.now_s += now - self._since
        self._since = now


def outcomes(case: Case) -> list[Outcome]:
    """Return what three processes could have measured."""
    return [replace(each, case=case) for each in DRAWN]


def drawn(case: Case, seed: int) -> Outcome:
    """Return what one process could have measured of a case."""
    draw = random.Random(seed)
    times = [draw.lognormvariate(0.0, 0.01) for _ in range(SAMPLES)]
    clocks = [{"sm_clock_mhz": 1980.0, "power_w": 650.0, "temperature_c": 50.0}] * 20
    samples = CaseSamples(times, [5] * (SAMPLES // 5), times[:20], clocks)
    figures = Figures(median_ms=1.0, ci_low_ms=0.999, ci_high_ms=1.001, samples=SAMPLES, error_o=1e-3)
    return Outcome(case, "ok", figures=figures, samples=samples)


DRAWN = [drawn(Case(SHAPE, "sdpa-math", "fwd"), seed) for seed in range(PROCESSES)]


def started_s(plan: Plan) -> float:
    """Return how long three workers take to start here, one after the other."""
    lane = Lane(Crew("cpu", PROCESSES))
    cases = [case for case in plan.cases if case.shape == plan.cases[0].shape][:1]
    try:
        lane.measure(Job(tuple(cases), "check", "lbench", Limits()), lambda _: None, lambda *_: None)
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
    process = psutil.Process()
    executor = VirtualExecutor(count, durations_s, start_s)
    with tempfile.TemporaryDirectory(prefix="lbench-scale-") as folder:
        path = Path(folder) / "scale.csv"
        with ResultFile(path) as file:
            before = process.memory_info().rss
            summary = run_sweep(plan, file, QuietWatcher(), executor=executor)
            after = process.memory_info().rss
        assert len(summary.records) == len(plan.cases)
        written = sum(each.stat().st_size for each in Path(folder).iterdir())
    total, cases = sum(durations_s) + start_s * min(count, len(durations_s)), len(plan.cases)
    return {
        "slots": count,
        "cases": cases,
        "shapes": len(durations_s),
        "ideal_s": f"{total / count:.1f}",
        "makespan_s": f"{executor.now_s:.1f}",
        "efficiency_percent": f"{100 * total / count / executor.now_s:.1f}",
        "driver_percent": f"{100 * executor.driver_s / executor.now_s:.2f}",
        "delayed_percent": f"{100 * executor.delayed_s / (count * executor.now_s):.3f}",
        "driver_ms": f"{1e3 * executor.driver_s / cases:.2f}",
        "rows_per_s": f"{cases / executor.driver_s:.0f}",
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
