"""Use of the processors, from a /proc that the test writes, and from that of this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from lightning_bench.machine import guardian
from lightning_bench.machine.processors import ForeignUse, Processors, ProcessorTimes, busiest, kin

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
TICK = 1 / os.sysconf("SC_CLK_TCK")


class FakeProc:
    """A folder like /proc with two usable processors and a third one that this process may not use."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 2}, raising=False)
        self.process(os.getpid(), parent=50)
        self.process(50, parent=40)
        self.process(40, parent=30)
        self.process(30, parent=1)

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def process(self, pid: int, *, parent: int, ticks: int = 0, children: str = "") -> None:
        self.write(f"{pid}/stat", f"{pid} (a name) with ) S {parent} {' 0' * 9} {ticks} 0 0 0\n")
        self.write(f"{pid}/task/{pid}/children", children)

    def stat(self, busy: int, stolen: int = 0) -> None:
        """`busy` ticks of each of six kinds on processor 0; the others are idle."""
        kinds = f"{busy} {busy} {busy} 9999 9999 {busy} {busy} {stolen} 0 0"
        idle = "0 0 0 9999 9999 0 0 0 0 0"
        self.write("stat", f"cpu  {kinds}\ncpu0 {kinds}\ncpu1 {kinds}\ncpu2 {idle}\nintr 77\ncpu0 9 9 9 9\n")


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeProc:
    return FakeProc(tmp_path, monkeypatch)


def test_only_usable_processors_count(proc: FakeProc) -> None:
    proc.stat(busy=10, stolen=4)
    found = Processors(proc.folder)
    assert found.count == 2
    times = found.times()
    assert times is not None
    assert times.busy_s == pytest.approx(5 * 10 * TICK)
    assert times.stolen_s == pytest.approx(4 * TICK)


def test_our_own_are_two_ancestors_and_all_descendants(proc: FakeProc) -> None:
    proc.stat(busy=0)
    processors = Processors(proc.folder)

    def own() -> float:
        times = processors.times(fresh=True)
        assert times is not None
        return times.own_s

    before = own()
    proc.process(os.getpid(), parent=50, children="60 61 ")
    proc.process(60, parent=os.getpid(), ticks=1000, children="70")
    proc.process(70, parent=60, ticks=100)  # 61 has ended
    proc.process(50, parent=40, ticks=10_000)
    proc.process(40, parent=30, ticks=100_000)
    proc.process(30, parent=1, ticks=1_000_000)
    assert own() - before == pytest.approx(111_100 * TICK, abs=1.0)


def test_waits_pressure_and_queue(proc: FakeProc) -> None:
    assert Processors(proc.folder).read().waited_s is None
    proc.write("self/task/7/schedstat", "5 2000000000 3\n")
    proc.write("self/task/8/schedstat", "5 500000000 3\n")
    proc.write(
        "pressure/cpu",
        "some avg10=1.00 avg60=2.00 avg300=3.00 total=4500000\nfull avg10=0.00 avg60=0.00 total=9\n",
    )
    proc.write("loadavg", "8.19 5.44 3.64 14/127 15119\n")
    reading = Processors(proc.folder).read()
    assert (reading.waited_s, reading.stalled_s, reading.runnable) == (2.5, 4.5, 14)


def test_what_the_kernel_does_not_count_is_none(proc: FakeProc) -> None:
    reading = Processors(proc.folder).read()
    assert (reading.waited_s, reading.stalled_s, reading.runnable) == (None, None, None)
    assert Processors(proc.folder).times() is None


def test_times_are_read_at_most_ten_times_a_second(proc: FakeProc) -> None:
    proc.stat(busy=1)
    processors = Processors(proc.folder)
    first = processors.times(fresh=True)
    assert processors.times() is first
    assert processors.times(fresh=True) is not first


@pytest.mark.parametrize(
    ("busy_s", "own_s", "stolen_s", "foreign", "stolen"),
    [(4.0, 4.0, 0.0, 0.0, 0.0), (4.0, 1.0, 0.5, 1.5, 0.25), (1.0, 1.1, 0.0, 0.0, 0.0)],
)
def test_foreign_is_what_is_not_own(
    busy_s: float, own_s: float, stolen_s: float, foreign: float, stolen: float
) -> None:
    first = ProcessorTimes(10.0, 100.0, 7.0, 50.0)
    last = ProcessorTimes(12.0, 100.0 + busy_s, 7.0 + stolen_s, 50.0 + own_s)
    assert ForeignUse.between(first, last, 2) == ForeignUse(
        2.0, pytest.approx(foreign), pytest.approx(stolen), 2
    )
    assert ForeignUse.between(last, last, 2) == ForeignUse(0.0, 0.0, 0.0, 2)


@LINUX
def test_on_this_machine_our_work_is_our_own() -> None:
    processors = Processors()
    first = processors.times(fresh=True)
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    last = processors.times(fresh=True)
    assert first is not None
    assert last is not None
    assert last.own_s - first.own_s >= 0.19
    assert last.busy_s > first.busy_s
    reading = processors.read()
    assert reading.runnable is None or reading.runnable >= 1


def test_workers_of_the_same_parent_are_kin(monkeypatch: pytest.MonkeyPatch) -> None:
    """A grandchild of the parent of guardians is, a child of it is not: it could be anybody's."""
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    child = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        (grandchild,) = psutil.Process(child.pid).children()
        assert guardian.guarded_siblings() == set()
        monkeypatch.setattr(guardian, "_parent_of_guardians", os.getpid())
        assert grandchild.pid in guardian.guarded_siblings()
        assert child.pid not in guardian.guarded_siblings()
    finally:
        child.communicate(b"\n")


def test_kin_and_the_busiest_others() -> None:
    assert {os.getpid(), os.getppid()} <= kin()
    assert f"(pid {os.getpid()})" not in busiest(kin())
