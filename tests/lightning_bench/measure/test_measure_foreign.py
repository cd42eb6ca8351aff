"""Foreign load beside the samples: what a row says of it, and when the row is unstable."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from lightning_bench.case import Device
from lightning_bench.cli.shared.busy import warn_if_busy
from lightning_bench.cli.shared.sink import Sink
from lightning_bench.errors import UsageError
from lightning_bench.machine.gpu_processes import GpuNeighbours
from lightning_bench.machine.processors import ProcessorReading, ProcessorTimes
from lightning_bench.measure import foreign
from lightning_bench.measure.foreign import (
    ForeignLoad,
    LoadFigures,
    NoForeign,
    busy_now,
    make_foreign,
    make_processors,
)
from lightning_bench.measure.session import Session
from lightning_bench.record.row import FOREIGN_LIMIT_PERCENT
from tests.support.measure_jobs import Measure


@dataclass
class FakeMachine:
    """Processors, neighbours on the GPU and a probe whose figures the test moves on; time is its own."""

    count: int = 2
    now_s: float = 100.0
    busy_s: float = 0.0
    stolen_s: float = 0.0
    own_s: float = 0.0
    waited_s: float = 0.0
    stalled_s: float = 0.0
    known: bool = True
    neighbours: GpuNeighbours = field(default_factory=GpuNeighbours)
    slower: float | None = 1.0
    forgotten: int = 0

    def read(self) -> ProcessorReading:
        if not self.known:
            return ProcessorReading(self.now_s, None, None, None)
        return ProcessorReading(self.now_s, self.waited_s, self.stalled_s, 3)

    def times(self, *, fresh: bool = False) -> ProcessorTimes | None:
        return ProcessorTimes(self.now_s, self.busy_s, self.stolen_s, self.own_s) if self.known else None

    def take(self) -> float | None:
        return self.slower

    def goes_on(self, seconds: float, *, own: float = 1.0, others: float = 0.0, **more: float) -> None:
        """Let time pass; `own` and `others` are processors in use."""
        self.now_s += seconds
        self.own_s += own * seconds
        self.busy_s += (own + others) * seconds
        for name, value in more.items():
            setattr(self, name, getattr(self, name) + value)


class FakeGpu:
    """The neighbours of a FakeMachine."""

    tells = True

    def __init__(self, machine: FakeMachine) -> None:
        self.machine = machine

    def read(self) -> GpuNeighbours:
        return self.machine.neighbours

    def forget(self) -> None:
        self.machine.forgotten += 1


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeMachine]:
    fake = FakeMachine()
    monkeypatch.setattr(foreign.time, "monotonic", lambda: fake.now_s)
    monkeypatch.setattr(foreign, "busiest", lambda own: "spinner (pid 7) 0.9")
    monkeypatch.setattr(foreign, "kin", lambda: {1001, 1002})
    return fake


def load_of(
    machine: FakeMachine, device: Device = "cpu", *, gpu: bool = False, probe: bool = False
) -> ForeignLoad:
    found = ForeignLoad(
        device,
        machine,  # type: ignore[arg-type]
        FakeGpu(machine) if gpu else None,  # type: ignore[arg-type]
        machine if probe else None,
    )
    found.job_begins()
    return found


def after_turns(load: ForeignLoad, machine: FakeMachine, count: int = 10, **use: float) -> LoadFigures:
    for _ in range(count):
        load.begins("a")
        machine.goes_on(0.1, **use)
        load.ends("a")
    load.settle()
    return load.figures("a")


def test_a_quiet_machine(machine: FakeMachine) -> None:
    figures = after_turns(load_of(machine), machine)
    assert figures.trouble is None
    assert figures.foreign_cpu_percent == pytest.approx(0.0, abs=1e-9)
    assert (figures.cpu_wait_percent, figures.run_queue, figures.gpu_neighbours) == (0.0, 3, "")


@pytest.mark.parametrize("others", [0.0, 0.05, 0.09, 0.11, 0.5, 2.0])
def test_others_may_use_a_twentieth_of_the_processors(machine: FakeMachine, others: float) -> None:
    figures = after_turns(load_of(machine), machine, others=others)
    assert figures.foreign_cpu_percent == pytest.approx(50 * others)
    too_much = 50 * others > FOREIGN_LIMIT_PERCENT
    assert (figures.trouble is not None) == too_much
    if too_much:
        assert figures.trouble == (
            f"other processes used {others:.2f} of 2 processors beside its samples (spinner (pid 7) 0.9)"
        )


def test_what_the_host_withholds(machine: FakeMachine) -> None:
    figures = after_turns(load_of(machine), machine, stolen_s=0.02)
    assert figures.cpu_steal_percent == pytest.approx(10.0)
    assert figures.trouble is not None
    assert "the host of this machine withheld 0.20 of 2 processors" in figures.trouble


def test_waits_and_pressure_are_those_of_the_turns(machine: FakeMachine) -> None:
    load = load_of(machine)
    load.begins("a")
    machine.goes_on(0.2, waited_s=0.05, stalled_s=0.1)
    load.ends("a")
    machine.goes_on(5.0, waited_s=5.0, stalled_s=5.0)
    figures = load.figures("a")
    assert figures.cpu_wait_percent == pytest.approx(25.0)
    assert figures.cpu_pressure_percent == pytest.approx(50.0)


def test_each_case_has_the_use_of_its_own_time(machine: FakeMachine) -> None:
    load = load_of(machine)
    for key, others in (("a", 0.0), ("b", 1.0), ("c", 0.0)):
        for _ in range(10):
            load.begins(key)
            machine.goes_on(0.1, others=others)
            load.ends(key)
    load.settle()
    assert [load.figures(key).trouble is not None for key in "abc"] == [False, True, False]
    load.job_begins()
    assert load.figures("b") == LoadFigures()


def test_a_short_case_has_the_use_of_its_job(machine: FakeMachine) -> None:
    load = load_of(machine)
    machine.goes_on(1.0, others=1.0)
    assert after_turns(load, machine, 1).foreign_cpu_percent == pytest.approx(50 / 1.1)


def test_less_than_three_ticks_are_no_evidence(machine: FakeMachine) -> None:
    load = load_of(machine)
    load.begins("a")
    machine.goes_on(0.02, others=1.0)
    load.ends("a")
    assert load.figures("a").trouble is None


def test_where_nothing_is_counted_nothing_is_said(machine: FakeMachine) -> None:
    machine.known = False
    assert after_turns(load_of(machine), machine, others=2.0) == LoadFigures()


def test_a_gpu_is_disturbed_only_if_its_worker_waits(machine: FakeMachine) -> None:
    assert after_turns(load_of(machine, "cuda"), machine, others=1.5).trouble is None
    waiting = after_turns(load_of(machine, "cuda"), machine, others=1.5, waited_s=0.03)
    assert waiting.trouble is not None
    assert waiting.trouble.startswith("the worker waited 30 % of the time for a processor; other processes")
    assert after_turns(load_of(machine, "cuda"), machine, waited_s=0.03).trouble is None  # its own threads


def test_a_process_that_computes_on_the_gpu(machine: FakeMachine) -> None:
    load = load_of(machine, "cuda", gpu=True)
    machine.neighbours = GpuNeighbours(frozenset({7, 8}), {7: 3})
    figures = after_turns(load, machine)
    assert figures.trouble == "another process computed on the GPU beside its samples (pid 7: 3 % of the SMs)"
    assert figures.gpu_neighbours == "pid 7 computed (3 % of the SMs); 1 held a context and computed nothing"


def test_a_process_that_only_holds_a_context(machine: FakeMachine) -> None:
    load = load_of(machine, "cuda", gpu=True)
    machine.neighbours = GpuNeighbours(frozenset({7}))
    figures = after_turns(load, machine)
    assert (figures.trouble, figures.gpu_neighbours) == (None, "1 held a context and computed nothing")


def test_workers_of_the_same_parent_are_no_strangers(machine: FakeMachine) -> None:
    load = load_of(machine, "cuda", gpu=True)
    assert machine.forgotten == 1  # what they used before this job
    machine.neighbours = GpuNeighbours(frozenset({1001, 8}), {1001: 50})
    figures = after_turns(load, machine)
    assert (figures.trouble, figures.gpu_neighbours) == (None, "1 held a context and computed nothing")


def test_use_that_nvml_reports_late_counts(machine: FakeMachine) -> None:
    load = load_of(machine, "cuda", gpu=True)
    assert after_turns(load, machine, 2).trouble is None
    machine.goes_on(0.5)
    machine.neighbours = GpuNeighbours(frozenset({7}), {7: 98})
    load.settle()
    assert load.figures("a").trouble is not None


@pytest.mark.parametrize(
    ("ratios", "quiet"),
    [
        ([1.0] * 10, True),
        ([1.0] * 9 + [2.0], True),
        ([1.0] * 7 + [2.0] * 3, False),
        ([1.2] * 10, False),  # there from the first probe to the last
        ([2.0], False),
    ],
)
def test_known_work_that_is_slow(machine: FakeMachine, ratios: list[float], quiet: bool) -> None:
    load = load_of(machine, "cuda", probe=True)
    for machine.slower in ratios:
        figures = after_turns(load, machine, 3)  # 0.3 s: a probe in the first of them
    assert (figures.trouble is None) == quiet
    if not quiet:
        assert figures.trouble is not None
        assert "the GPU served others beside its samples" in figures.trouble
        assert f"{max(ratios):.3g} times at most" in figures.trouble


def test_a_case_is_judged_by_the_probes_of_its_time(machine: FakeMachine) -> None:
    load = load_of(machine, "cuda", probe=True)
    for key, machine.slower in (("before", 2.0), ("late", 1.0)):
        for _ in range(10):
            load.begins(key)
            machine.goes_on(0.1)
            load.ends(key)
        machine.goes_on(1.0)
    assert load.figures("before").trouble is not None
    assert load.figures("late").trouble is None


def test_a_probe_without_memory_says_nothing(machine: FakeMachine) -> None:
    machine.slower = None
    assert after_turns(load_of(machine, "cuda", probe=True), machine).trouble is None


def test_the_probe_is_used_only_where_nvml_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LBENCH_LOAD")
    probe = FakeMachine()
    asked: list[object] = []
    monkeypatch.setattr(foreign, "ForeignLoad", lambda *arguments: asked.append(arguments[-1]))
    for tells in (True, False):
        gpu = FakeGpu(FakeMachine())
        gpu.tells = tells
        gpu.note_context = lambda kin: None  # type: ignore[attr-defined]
        make_foreign("cuda", gpu, probe)  # type: ignore[arg-type]
    make_foreign("cuda", None, probe)
    assert asked == [None, probe, probe]


def test_readings_can_be_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert make_processors() is None
    assert isinstance(make_foreign("cpu", None, None), NoForeign)
    assert busy_now("cpu") is None
    monkeypatch.setenv("LBENCH_LOAD", "off")
    with pytest.raises(UsageError, match=r"LBENCH_LOAD='off' is not known; allowed: read .*, ignore"):
        make_processors()


def test_a_warning_before_a_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(foreign, "busy_now", lambda device, gpus: f"this machine is busy: {device}")
    warn_if_busy(Sink(), "cpu")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == ("this machine is busy: cpu; what is measured beside foreign load is unstable\n")
    monkeypatch.setattr(foreign, "busy_now", lambda device, gpus: None)
    warn_if_busy(Sink(), "cpu")
    assert capsys.readouterr().err == ""


def a_busy_stranger() -> int:
    """Start a process that is no descendant of this one and computes for some minutes; return its id."""
    spin = "import time\nend = time.monotonic() + 300\nwhile time.monotonic() < end: pass"
    shell = f"{shlex.quote(sys.executable)} -c {shlex.quote(spin)} >&- 2>&- & echo $!"
    started = subprocess.run(["sh", "-c", shell], check=True, capture_output=True, text=True)
    return int(started.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.slow
def test_no_row_is_ok_beside_busy_processes(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LBENCH_LOAD")
    count = 2 * len(os.sched_getaffinity(0))
    strangers = [a_busy_stranger() for _ in range(count)]
    try:
        warning = busy_now("cpu")
        rows = measure("Right", "Also", direction="fwd", on=Session("cpu")).outcomes
        published = measure("Right", direction="fwd", protocol="paper", on=Session("cpu")).outcomes
    finally:
        for pid in strangers:
            os.kill(pid, signal.SIGKILL)
    assert warning is not None
    assert warning.startswith("this machine is busy: other processes used ")
    for outcome in [*rows, *published]:
        assert outcome.status == "unstable"
        assert "beside its samples" in outcome.reason
        assert outcome.figures.foreign_cpu_percent > 5
        assert outcome.figures.run_queue > 2
    assert all(outcome.figures.median_ms > 0 for outcome in rows)
    assert all(outcome.figures.mean_ms > 0 for outcome in published)
