"""Windows of energy: their arithmetic on a played device, and whole jobs whose counter is CPU time."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import partial

import pytest

from lightning_bench.case import Case, Shape
from lightning_bench.measure import energy_windows
from lightning_bench.measure.bench import run_job
from lightning_bench.measure.device.call_watch import NoCallWatch
from lightning_bench.measure.device.clocks import ClockReading
from lightning_bench.measure.device.energy import NoEnergy
from lightning_bench.measure.energy_row import spread_trouble, with_windows
from lightning_bench.measure.energy_windows import EnergyRounds, EnergyTask, EnergyWindow, WindowRule
from lightning_bench.measure.foreign import NoForeign
from lightning_bench.measure.job import Figures, Job, Outcome
from lightning_bench.measure.session import Session
from lightning_bench.run.planner import Planner, Settings
from lightning_bench.suite import Limits, Overrides, load_suite
from tests.support.paths import SUPPORT

SHAPE = Shape(2, 2, 64, 16, 16, "fp32", "cpu")


@dataclass
class PlayedDevice:
    """A device in simulated time: 100 W at rest, and it warms up by 10 °C in a window."""

    missing = ""
    now_s: float = 0.0
    joules: float = 0.0
    celsius: float = 40.0
    called: list[str] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self._pass(seconds, 100.0)
        self.celsius = max(40.0, self.celsius - 2 * seconds)

    def call(self, name: str, seconds: float, watts: float) -> None:
        self._pass(seconds, watts)
        self.celsius = min(50.0, self.celsius + seconds)
        self.called.append(name)

    def read_j(self) -> float:
        return self.joules

    def read(self) -> ClockReading:
        return ClockReading(1500.0, 100.0, self.celsius, 0)

    def _pass(self, seconds: float, watts: float) -> None:
        self.now_s += seconds
        self.joules += watts * seconds


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> PlayedDevice:
    played = PlayedDevice()
    monkeypatch.setattr(energy_windows, "_now", lambda: played.now_s)
    monkeypatch.setattr(energy_windows, "_sleep", played.sleep)
    return played


def rounds(device: PlayedDevice) -> EnergyRounds:
    return EnergyRounds(WindowRule(3, 5.0, 2.0), device, device, NoForeign(), lambda: None)


def test_what_the_device_needs_at_rest_is_subtracted(device: PlayedDevice) -> None:
    tasks = [
        EnergyTask("slow", partial(device.call, "slow", 0.010, 600.0), 10.0, NoCallWatch()),
        EnergyTask("fast", partial(device.call, "fast", 0.002, 300.0), 2.0, NoCallWatch()),
    ]
    entered: list[tuple[str, str]] = []
    rounds(device).run(tasks, seed=3, enter=lambda key, phase: entered.append((key, phase)))
    for task, mj, ms in ((tasks[0], 5000.0, 10.0), (tasks[1], 400.0, 2.0)):
        assert [window.rest_w for window in task.windows] == pytest.approx([100.0] * 3)
        assert [window.call_mj for window in task.windows] == pytest.approx([mj] * 3)
        assert [window.call_ms for window in task.windows] == pytest.approx([ms] * 3)
        assert all(5.0 <= window.seconds < 5.2 for window in task.windows)
        assert sum(window.calls for window in task.windows) == device.called.count(task.key)
        assert task.spread_percent == pytest.approx(0.0, abs=1e-6)
        assert spread_trouble(task) is None
        assert task.readings
    # One case alone in a window, each once in a round, and the device cools down before.
    order = [key for at, key in enumerate(device.called) if at == 0 or device.called[at - 1] != key]
    assert len(order) <= 6
    assert [phase for _, phase in entered] == ["cool-down", "samples"] * 6
    assert [{key for key, _ in entered[at : at + 4]} for at in (0, 4, 8)] == [{"slow", "fast"}] * 3
    figures = with_windows(Case(SHAPE, "x", "fwd"), Figures(), tasks[0])
    assert figures.call_mj == pytest.approx(5000.0)
    assert figures.token_mj == pytest.approx(5000.0 / 128)
    assert figures.power_w == pytest.approx(600.0)
    assert (figures.samples, figures.rest_w) == (3, pytest.approx(100.0))


def test_a_window_begins_no_warmer_than_the_first(device: PlayedDevice) -> None:
    warm: list[float] = []

    def call() -> None:
        if not device.called or device.now_s - last[0] > 1.0:
            warm.append(device.celsius)
        device.call("x", 0.05, 700.0)
        last[0] = device.now_s

    last = [0.0]
    rounds(device).run([EnergyTask("x", call, 50.0, NoCallWatch())], seed=0, enter=lambda *_: None)
    assert len(warm) == 3
    assert max(warm) <= 45.0


class Fails(NoCallWatch):
    def ends(self) -> None:
        self.failure = "not right"


def test_a_case_that_is_wrong_takes_no_more_windows(device: PlayedDevice) -> None:
    wrong = EnergyTask("wrong", partial(device.call, "wrong", 0.5, 200.0), 500.0, Fails())
    rounds(device).run([wrong], seed=0, enter=lambda *_: None)
    assert len(wrong.windows) == 1


def test_windows_that_differ_are_unstable() -> None:
    def task(*joules: float) -> EnergyTask:
        windows = [EnergyWindow(1000, 5.0, each, 100.0) for each in joules]
        return EnergyTask("x", lambda: None, 5.0, NoCallWatch(), windows)

    assert spread_trouble(task(3000.0, 3050.0, 3100.0)) is None
    said = spread_trouble(task(3000.0, 3050.0, 3200.0))
    assert said == "its windows differ by 7.8 %: 2500, 2550, 2700 mJ per call"
    assert "differ by inf %" in str(spread_trouble(task(400.0, 450.0, 505.0)))  # as at rest


class CpuSeconds:
    """A real counter that a job moves: the CPU time of this process, counted as 50 W."""

    missing = ""

    def read_j(self) -> float:
        times = os.times()
        return 50.0 * (times.user + times.system)


def measured(
    session: Session,
    monkeypatch: pytest.MonkeyPatch,
    energy: object,
    provider: str,
    shape: Shape = SHAPE,
) -> Outcome:
    monkeypatch.setattr(session, "energy", energy)
    short = {"window_s": 0.2, "rest_s": 0.02}  # shorter than a suite may have them
    limits = Limits(sample_limit_s=0.1, min_samples=6).model_copy(update=short)
    outcomes: list[Outcome] = []
    job = Job((Case(shape, provider, "fwd"),), "energy", "lbench", limits)
    run_job(session, job, lambda *_: None, outcomes.append)
    (outcome,) = outcomes
    return outcome


def test_a_job_gives_energy_per_call_and_token(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = measured(session, monkeypatch, CpuSeconds(), "sdpa-math")
    assert outcome.status in ("ok", "unstable"), outcome.reason
    f = outcome.figures
    assert f.median_ms is not None
    assert f.call_mj is not None
    # At 50 W a call that keeps a processor busy takes 50 mJ per ms; ticks are coarse, others may be served.
    assert 0.2 * 50 * f.median_ms < f.call_mj < 2.5 * 50 * f.median_ms
    assert f.token_mj == pytest.approx(f.call_mj / 128)
    assert f.samples == 3
    assert f.rest_w is not None
    assert f.error_o is not None
    assert outcome.samples
    assert len(outcome.samples.energy or []) == 3
    assert outcome.samples.as_line()["energy"] == outcome.samples.energy


@pytest.mark.parametrize(
    ("energy", "provider", "status", "reason"),
    [
        (NoEnergy("no counter here"), "sdpa-math", "unavailable", "no counter here"),
        (CpuSeconds(), f"{SUPPORT / 'zoo.py'}:Wrong", "wrong", "o is off by"),
    ],
)
def test_what_ends_a_case(
    session: Session, monkeypatch: pytest.MonkeyPatch, energy: object, provider: str, status: str, reason: str
) -> None:
    outcome = measured(session, monkeypatch, energy, provider)
    assert (outcome.status, outcome.figures.call_mj) == (status, None)
    assert reason in outcome.reason


def test_windows_come_on_top_of_the_time_limit() -> None:
    suite, settings = load_suite("quick"), Settings(device="cpu", time_limit_s=9.0)
    speed, energy = (
        Planner(metric, Overrides(), settings).plan(suite).limits for metric in ("speed", "energy")
    )  # type: ignore[arg-type]
    assert speed.time_limit_s == 9.0
    assert energy.time_limit_s == 9.0 + 3 * (20.0 + 2.0 + 5.0)


@pytest.mark.parametrize("name", ["MemoisedByContent", "MemoisedUpToSigns"])
def test_who_keeps_results_gains_nothing(
    session: Session, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    exploit = f"{SUPPORT / 'exploits' / 'replayed.py'}:{name}"
    outcome = measured(session, monkeypatch, CpuSeconds(), exploit, Shape(1, 2, 512, 32, 32, "fp32", "cpu"))
    assert (outcome.status, outcome.figures.call_mj) == ("wrong", None)
    assert outcome.reason.startswith("it keeps something from call to call: ")
