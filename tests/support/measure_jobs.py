"""Jobs measured in this process on a CPU: a timer that follows a script, and what a job has answered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_bench.case import Case, Direction, Metric, ProtocolName, Shape
from lightning_bench.measure.bench import run_job
from lightning_bench.measure.device.call_watch import CallWatch
from lightning_bench.measure.device.stream_clock import SampleClock
from lightning_bench.measure.job import Figures, Job, Outcome
from lightning_bench.measure.session import Session
from lightning_bench.suite import Limits
from tests.support.paths import SUPPORT

SHAPE = Shape(1, 2, 70, 8, 8, "fp32", "cpu")
LIMITS = Limits(sample_limit_s=0.5, min_samples=6, max_samples=12, ci_percent=50.0)
MIB = 2.0**20
U = 2 * 70 * 8 * 4 / MIB

ZOO = SUPPORT / "measure_zoo.py"


class FakeTimer:
    """Each sample costs the next time of the script, whatever the call does."""

    def __init__(self, *script: float, then: float) -> None:
        self._script, self._then, self._seconds = list(script), then, 0.0
        self.empty: float | None = None
        self.clock: SampleClock | None = None
        self._taken = 0

    def sample(self, fn: Callable[[], Any], count: int, watch: CallWatch) -> list[float]:
        watch.before()
        watch.after(fn())
        self._taken = count
        return [self._next() for _ in range(count)]

    def call(self, fn: Callable[[], Any], watch: CallWatch) -> float:
        watch.before()
        watch.after(fn())
        return 7.5

    def clocks(self) -> list[SampleClock | None]:
        return [self.clock] * self._taken if self.clock else []

    def exposed(self, fn: Callable[[], Any]) -> bool:
        return False

    def empty_us(self) -> float | None:
        return self.empty

    def now(self) -> float:
        return self._seconds

    def release(self) -> None:
        pass

    def _next(self) -> float:
        ms = self._script.pop(0) if self._script else self._then
        self._seconds += ms / 1e3
        return ms


@dataclass
class Run:
    """What a job answered."""

    outcomes: list[Outcome] = field(default_factory=list)
    entered: list[tuple[str, str]] = field(default_factory=list)

    def __getitem__(self, name: str) -> Outcome:
        (found,) = [o for o in self.outcomes if o.case.provider.endswith(f":{name}")]
        return found


TIMES = {"median_ms", "p20_ms", "p80_ms", "min_ms", "mean_ms", "ci_low_ms", "ci_high_ms", "call_ms"}
RATES = {"tflops", "gbps"}
ERRORS = {"error_o", "error_dq", "error_dk", "error_dv"}

Measure = Callable[..., Run]


def given(figures: Figures) -> set[str]:
    """Return the names of the figures that were taken."""
    return {name for name, value in vars(figures).items() if value not in (None, "")}


def measure_in(folder: Path, session: Session) -> Measure:
    """Measure `NAME` or `NAME/direction` of a fresh copy of the zoo in `folder`, and `others`, FILE:NAME.

    Each case must end once.
    """
    zoo = folder / "zoo.py"
    zoo.write_bytes(ZOO.read_bytes())

    def run(
        *names: str,
        direction: Direction = "fwd_bwd",
        metric: Metric = "speed",
        protocol: ProtocolName = "lbench",
        shape: Shape = SHAPE,
        limits: Limits = LIMITS,
        graph: bool = False,
        on: Session = session,
        others: tuple[str, ...] = (),
    ) -> Run:
        parted = (name.partition("/") for name in names)
        cases = tuple(Case(shape, f"{zoo}:{name}", own or direction) for name, _, own in parted)
        cases += tuple(Case(shape, spec, direction) for spec in others)
        answers = Run()
        run_job(
            on,
            Job(cases, metric, protocol, limits, graph=graph),
            lambda case_id, phase: answers.entered.append((case_id, phase)),
            answers.outcomes.append,
        )
        assert Counter(o.case.id for o in answers.outcomes) == Counter(case.id for case in cases)
        return answers

    return run
