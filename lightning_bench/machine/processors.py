"""Use of the processors, as Linux counts it: by this process and its kin, by others, and by the host of a VM.

Elsewhere than on Linux there are no readings.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from lightning_bench.machine.guardian import guarded_siblings

# The kernel counts in ticks: more readings would cost time and say no more.
_FRESH_S = 0.1
_MOST_TASKS = 64
_LOOK_S = 0.15
_NAMED = 3
_LEAST_NAMED = 0.05  # of one processor

_TICKS_PER_S = float(os.sysconf("SC_CLK_TCK")) if hasattr(os, "sysconf") else 100.0


@dataclass(frozen=True)
class ProcessorTimes:
    """Seconds that the processors which this process may use have spent so far, summed over them.

    `busy_s` is work of all processes, `own_s` that of this process, its parent, the parent of that, and its
    descendants; `stolen_s` is what the host of a virtual machine gave to others.
    """

    at_s: float
    busy_s: float
    stolen_s: float
    own_s: float


@dataclass(frozen=True)
class ProcessorReading:
    """One reading: the latest times, and counts since the start. What the kernel does not count is None.

    `waited_s` is how long threads of this process waited for a processor, summed over them; `stalled_s` how
    long any task of the machine did (pressure stall information); `runnable` how many threads of the machine
    run or wait now.
    """

    at_s: float
    waited_s: float | None
    stalled_s: float | None
    runnable: int | None


@dataclass(frozen=True)
class ForeignUse:
    """Processors that others used on average, and that the host of the machine withheld, of `count`."""

    seconds: float
    foreign: float
    stolen: float
    count: int

    @classmethod
    def between(cls, first: ProcessorTimes, last: ProcessorTimes, count: int) -> ForeignUse:
        """Return the use from one reading to another; both 0 if no time lies between them."""
        seconds = last.at_s - first.at_s
        if seconds <= 0:
            return cls(0.0, 0.0, 0.0, count)
        others = (last.busy_s - last.own_s) - (first.busy_s - first.own_s)
        stolen = last.stolen_s - first.stolen_s
        return cls(seconds, max(0.0, others / seconds), max(0.0, stolen / seconds), count)


class Processors:
    """Reads the counts in `proc`; those that it lacks are None."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        self._kin = [pid for pid in _ancestors(proc, 2) if pid > 1]
        self._last: ProcessorTimes | None = None

    @property
    def count(self) -> int:
        """Processors that this process may use."""
        return len(self._usable)

    def read(self) -> ProcessorReading:
        """Return the counts of now; a tenth of a millisecond."""
        return ProcessorReading(time.monotonic(), self._waited_s(), self._stalled_s(), self._runnable())

    def times(self, *, fresh: bool = False) -> ProcessorTimes | None:
        """Return the times of now, or those of the last tenth of a second unless they must be `fresh`."""
        now = time.monotonic()
        if fresh or self._last is None or now - self._last.at_s >= _FRESH_S:
            spent = self._spent()
            self._last = None if spent is None else ProcessorTimes(now, *spent, self._own_s())
        return self._last

    def _spent(self) -> tuple[float, float] | None:
        """Return seconds of work and stolen seconds of the processors that this process may use."""
        wanted = {f"cpu{number}" for number in self._usable}
        busy = stolen = 0.0
        found = False
        for line in _text(self._proc / "stat").splitlines():
            name, *cells = line.split()
            if not name.startswith("cpu"):
                break
            if name not in wanted:
                continue
            user, nice, system, _idle, _iowait, interrupts, soft, steal = map(int, cells[:8])
            busy += user + nice + system + interrupts + soft
            stolen += steal
            found = True
        return (busy / _TICKS_PER_S, stolen / _TICKS_PER_S) if found else None

    def _own_s(self) -> float:
        times = os.times()
        ended = times.children_user + times.children_system
        return time.process_time() + ended + sum(map(self._used_s, [*self._kin, *self._descendants()]))

    def _used_s(self, pid: int) -> float:
        """Return CPU seconds of a process, 0 if it has ended."""
        cells = _text(self._proc / str(pid) / "stat").rpartition(")")[2].split()
        return (int(cells[11]) + int(cells[12])) / _TICKS_PER_S if len(cells) > 12 else 0.0

    def _descendants(self) -> list[int]:
        found = []
        pending = [os.getpid()]
        while pending:
            task = self._proc / str(pending.pop()) / "task"
            for thread in _names(task):
                children = list(map(int, _text(task / thread / "children").split()))
                found += children
                pending += children
        return found

    def _waited_s(self) -> float | None:
        """Return how long the threads of this process have waited; many are represented by the first ones."""
        tasks = self._proc / "self" / "task"
        waits = [_text(tasks / name / "schedstat").split() for name in _names(tasks)[:_MOST_TASKS]]
        found = [int(cells[1]) / 1e9 for cells in waits if len(cells) > 1]
        return sum(found) if found else None

    def _stalled_s(self) -> float | None:
        for line in _text(self._proc / "pressure" / "cpu").splitlines():
            if line.startswith("some "):
                return int(line.rpartition("total=")[2]) / 1e6
        return None

    def _runnable(self) -> int | None:
        cells = _text(self._proc / "loadavg").split()
        return int(cells[3].partition("/")[0]) if len(cells) > 3 else None


def foreign_now(processors: Processors) -> ForeignUse | None:
    """Return what others use during the next moment; None if that is not known here."""
    first = processors.times(fresh=True)
    time.sleep(_LOOK_S)
    last = processors.times(fresh=True)
    if first is None or last is None:
        return None
    return ForeignUse.between(first, last, processors.count)


def busiest(own: Iterable[int]) -> str:
    """Return the foreign processes that use most during the next moment: "python (pid 7) 0.9, …", or ""."""
    ours = set(own)
    before, begin = _cpu_times(), time.monotonic()
    time.sleep(_LOOK_S)
    after, seconds = _cpu_times(), time.monotonic() - begin
    used = {
        pid: (spent - before[pid][1]) / seconds
        for pid, (_, spent) in after.items()
        if pid in before and pid not in ours
    }
    top = sorted(used, key=lambda pid: -used[pid])[:_NAMED]
    return ", ".join(
        f"{after[pid][0]} (pid {pid}) {used[pid]:.1f}" for pid in top if used[pid] > _LEAST_NAMED
    )


def kin() -> set[int]:
    """Return the ids of this process, its ancestors and descendants, and of workers of the same parent."""
    me = psutil.Process()
    found = {me.pid} | guarded_siblings()
    with contextlib.suppress(psutil.Error):
        found |= {process.pid for process in [*me.parents(), *me.children(recursive=True)]}
    return found


def _cpu_times() -> dict[int, tuple[str, float]]:
    """Return name and CPU seconds of every process."""
    found = {}
    for process in psutil.process_iter(["name", "cpu_times"]):
        name, times = process.info["name"], process.info["cpu_times"]
        if times is not None:
            found[process.pid] = (str(name), float(times.user + times.system))
    return found


def _ancestors(proc: Path, generations: int) -> list[int]:
    found: list[int] = []
    pid = os.getpid()
    for _ in range(generations):
        cells = _text(proc / str(pid) / "stat").rpartition(")")[2].split()
        if len(cells) < 2:
            break
        pid = int(cells[1])
        found.append(pid)
    return found


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
