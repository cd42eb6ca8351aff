"""Foreign load: what others did on processors and GPU while a case was timed, and when that is too much.

Readings are taken before and after each turn of samples, never within one. Whose turns they were decides
what a row says of waits; use of processors, which the kernel counts in ticks, is that of the time from a
case's first turn to its last, or since its job began if that is short.
"""

from __future__ import annotations

import os
import statistics
import time
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from lightning_bench.case import Device
from lightning_bench.errors import UsageError
from lightning_bench.machine.gpu import Gpu, cuda_gpu
from lightning_bench.machine.gpu_processes import GpuNeighbours, GpuProcesses
from lightning_bench.machine.processors import (
    ForeignUse,
    ProcessorReading,
    Processors,
    ProcessorTimes,
    busiest,
    foreign_now,
    kin,
)
from lightning_bench.record.row import FOREIGN_LIMIT_PERCENT, STEAL_LIMIT_PERCENT

_VARIABLE = "LBENCH_LOAD"

# A GPU's queue hides short waits of the thread that fills it; `call_ms` does not.
WAIT_LIMIT_PERCENT = 10.0
_LEAST_SECONDS = 0.03  # three ticks: less is the error of counting
_SHORT_S = 0.5
_GPU_FRESH_S = 0.25
_NAMES_KEPT_S = 2.0
# Work that is always the same takes as long each time, unless others are served in between. On an idle H200
# the slowest of 25 probes was 1.002 times slower than the fastest.
_PROBE_FRESH_S = 0.25
_PROBE_SLOWER = 1.1
_PROBE_SHARE = 0.2


@dataclass(frozen=True, kw_only=True)
class LoadFigures:
    """Foreign load beside the samples of one case, None or "" if not read, and why it is too much."""

    foreign_cpu_percent: float | None = None
    cpu_steal_percent: float | None = None
    cpu_wait_percent: float | None = None
    cpu_pressure_percent: float | None = None
    run_queue: float | None = None
    gpu_neighbours: str = ""
    trouble: str | None = None


class Foreign(Protocol):
    """What is read beside the turns of the cases of one job."""

    def job_begins(self) -> None:
        """Forget the last job."""

    def begins(self, key: str) -> None:
        """Note that a turn of the case `key` begins."""

    def ends(self, key: str) -> None:
        """Note that it has ended."""

    def settle(self) -> None:
        """Note that no more turns follow for now."""

    def figures(self, key: str) -> LoadFigures:
        """Return the load beside all turns of the case `key`."""


class Probe(Protocol):
    """A known amount of work on the GPU."""

    def take(self) -> float | None:
        """Do it and return how many times longer it took than by itself; None if it cannot be done now."""


class NoForeign:
    """Reads nothing."""

    def job_begins(self) -> None:
        """Do nothing."""

    def begins(self, key: str) -> None:
        """Do nothing."""

    def ends(self, key: str) -> None:
        """Do nothing."""

    def settle(self) -> None:
        """Do nothing."""

    def figures(self, key: str) -> LoadFigures:
        """Return nothing."""
        return LoadFigures()


@dataclass
class _Turns:
    """The turns of one case so far."""

    begin_s: float
    end_s: float = 0.0
    seconds: float = 0.0
    waited_s: float | None = 0.0
    stalled_s: float | None = 0.0
    runnable: list[int] = field(default_factory=list)

    def add(self, before: ProcessorReading, after: ProcessorReading) -> None:
        self.end_s = after.at_s
        self.seconds += after.at_s - before.at_s
        self.waited_s = _more(self.waited_s, before.waited_s, after.waited_s)
        self.stalled_s = _more(self.stalled_s, before.stalled_s, after.stalled_s)
        self.runnable += [count for count in (before.runnable, after.runnable) if count is not None]

    def percent(self, seconds: float | None) -> float | None:
        """Return these seconds as a share of the turns."""
        return None if seconds is None or self.seconds <= 0 else 100.0 * seconds / self.seconds


class ForeignLoad:
    """Reads the processors of a device's machine and, on a GPU, its other processes or a probe."""

    def __init__(
        self,
        device: Device,
        processors: Processors,
        gpu: GpuProcesses | None = None,
        probe: Probe | None = None,
    ) -> None:
        self._device, self._processors, self._gpu, self._probe = device, processors, gpu, probe
        self._turns: dict[str, _Turns] = {}
        self._times: list[ProcessorTimes] = []
        self._neighbours: list[tuple[float, GpuNeighbours]] = []
        self._kin: set[int] = set()
        self._before: ProcessorReading | None = None
        self._probes: list[tuple[float, float]] = []
        self._probed_s = float("-inf")
        self._names, self._named_s = "", float("-inf")

    def job_begins(self) -> None:
        """Forget the last job and read."""
        self._turns.clear()
        self._times.clear()
        self._neighbours.clear()
        self._probes.clear()
        if self._gpu is not None:
            self._gpu.forget()
        self._look(fresh=True)

    def begins(self, key: str) -> None:
        """Read before a turn; a probe is not taken after it, where clocks are read."""
        self._look()
        self._turns.setdefault(key, _Turns(time.monotonic()))
        if self._probe is not None and time.monotonic() - self._probed_s >= _PROBE_FRESH_S:
            slower = self._probe.take()
            self._probed_s = time.monotonic()
            if slower is not None:
                self._probes.append((self._probed_s, slower))
        self._before = self._processors.read()

    def ends(self, key: str) -> None:
        """Read after a turn."""
        after = self._processors.read()
        turns = self._turns[key]
        assert self._before is not None
        turns.add(self._before, after)
        self._look()

    def settle(self) -> None:
        """Read, however fresh the last reading is."""
        self._look(fresh=True)

    def figures(self, key: str) -> LoadFigures:
        """Return the load beside the turns of a case, and whether that is too much."""
        turns = self._turns.get(key)
        if turns is None or not turns.end_s:
            return LoadFigures()
        if not self._times or self._times[-1].at_s < turns.end_s:
            self._look(fresh=True)
        use = self._use(turns)
        neighbours = self._neighbours_of(turns)
        wait = turns.percent(turns.waited_s)
        troubles = [
            self._trouble_of_processors(use, wait),
            _trouble_of_gpu(neighbours),
            self._trouble_of_probes(turns),
        ]
        return LoadFigures(
            foreign_cpu_percent=100.0 * use.foreign / use.count if use else None,
            cpu_steal_percent=100.0 * use.stolen / use.count if use else None,
            cpu_wait_percent=wait,
            cpu_pressure_percent=turns.percent(turns.stalled_s),
            run_queue=statistics.median(turns.runnable) if turns.runnable else None,
            gpu_neighbours=str(neighbours),
            trouble="; ".join(filter(None, troubles)) or None,
        )

    def _look(self, *, fresh: bool = False) -> None:
        times = self._processors.times(fresh=fresh)
        if times is not None and (not self._times or self._times[-1] is not times):
            self._times.append(times)
        now = time.monotonic()
        if self._gpu is not None and (
            fresh or not self._neighbours or now - self._neighbours[-1][0] >= _GPU_FRESH_S
        ):
            self._neighbours.append((now, self._strangers(self._gpu.read())))

    def _strangers(self, seen: GpuNeighbours) -> GpuNeighbours:
        """Return those seen that are no kin; looking for kin takes milliseconds."""
        if seen.without(self._kin) != GpuNeighbours():
            self._kin = kin()
        return seen.without(self._kin)

    def _use(self, turns: _Turns) -> ForeignUse | None:
        """Return the use from the last reading before the first turn to the first one after the last."""
        if len(self._times) < 2:
            return None
        at = [times.at_s for times in self._times]
        first = max(0, bisect_right(at, turns.begin_s) - 1)
        last = min(len(at) - 1, bisect_left(at, turns.end_s))
        if at[last] - at[first] < _SHORT_S:
            first, last = 0, len(at) - 1
        return ForeignUse.between(self._times[first], self._times[last], self._processors.count)

    def _neighbours_of(self, turns: _Turns) -> GpuNeighbours:
        """Return who was on the GPU since the first turn; NVML's figures of use are late by a second."""
        found = GpuNeighbours()
        for at_s, seen in self._neighbours:
            if at_s >= turns.begin_s - _GPU_FRESH_S:
                found = found.and_later(seen)
        return found

    def _trouble_of_processors(self, use: ForeignUse | None, wait_percent: float | None) -> str | None:
        if use is None or not use.seconds:
            return None
        if self._device == "cuda":
            # The GPU's own times do not depend on busy processors unless its queue runs empty.
            if wait_percent is None or wait_percent <= WAIT_LIMIT_PERCENT or not _much(use, use.foreign):
                return None
            return f"the worker waited {wait_percent:.0f} % of the time for a processor; {self._who(use)}"
        if _exceeds(use, use.foreign, FOREIGN_LIMIT_PERCENT):
            return self._who(use)
        if _exceeds(use, use.stolen, STEAL_LIMIT_PERCENT):
            return (
                f"the host of this machine withheld {use.stolen:.2f} of {use.count} processors "
                "beside its samples (steal)"
            )
        return None

    def _trouble_of_probes(self, turns: _Turns) -> str | None:
        """Return that the GPU served others, if known work was slow too often while the case took turns."""
        near = (turns.begin_s - _PROBE_FRESH_S, turns.end_s + _PROBE_FRESH_S)
        slower = [ratio for at_s, ratio in self._probes if near[0] <= at_s <= near[1]]
        slow = sum(ratio > _PROBE_SLOWER for ratio in slower)
        if not slow or slow < _PROBE_SHARE * len(slower):
            return None
        return (
            "the GPU served others beside its samples: known work took "
            f"{statistics.median(slower):.3g} times as long as by itself, {max(slower):.3g} times at most"
        )

    def _who(self, use: ForeignUse) -> str:
        if time.monotonic() - self._named_s > _NAMES_KEPT_S:
            self._names, self._named_s = busiest(kin()), time.monotonic()
        return _sentence(use, self._names, "beside its samples")


def make_processors() -> Processors | None:
    """Return what reads the processors; None where LBENCH_LOAD=ignore asks for no readings.

    Raises UsageError if that variable is anything else.
    """
    wanted = os.environ.get(_VARIABLE, "").strip() or "read"
    if wanted not in ("read", "ignore"):
        raise UsageError(f"{_VARIABLE}={wanted!r} is not known; allowed: read (the default), ignore")
    return None if wanted == "ignore" else Processors()


def make_foreign(device: Device, gpu: GpuProcesses | None, probe: Probe | None) -> Foreign:
    """Return what reads foreign load, now that this process has its CUDA context.

    `gpu` is what `gpu_processes` returned before; `probe` is used where that does not tell. Raises
    UsageError for an unknown LBENCH_LOAD.
    """
    processors = make_processors()
    if processors is None:
        return NoForeign()
    if gpu is not None:
        gpu.note_context(kin())
    return ForeignLoad(device, processors, gpu, None if gpu is not None and gpu.tells else probe)


def gpu_processes(device: Device, gpu: Gpu | None = None) -> GpuProcesses | None:
    """Return what reads the processes of `gpu`, or of CUDA's first, on a CPU and where NVML fails None.

    Call it before CUDA starts.
    """
    if device != "cuda":
        return None
    try:
        return GpuProcesses(gpu or cuda_gpu())
    except Exception:  # any NVML error: the probe then tells
        return None


def busy_now(device: Device, gpus: Sequence[Gpu] = ()) -> str | None:
    """Return who uses the GPUs, or CUDA's first, and the processors already, in one line; None if little."""
    processors = make_processors()
    if processors is None:
        return None
    found = []
    use = foreign_now(processors)
    if use is not None and _exceeds(use, use.foreign, FOREIGN_LIMIT_PERCENT):
        found.append(_sentence(use, busiest(kin()), "a moment ago"))
    for each in gpus or (None,):
        processes = gpu_processes(device, each)
        if processes is not None and (neighbours := processes.everyone()).computed:
            found.append(f"on {each.uuid if each else 'the GPU'} {neighbours}")
    return f"this machine is busy: {'; '.join(found)}" if found else None


def _sentence(use: ForeignUse, names: str, when: str) -> str:
    """Return how many processors others use, and who."""
    who = f" ({names})" if names else ""
    return f"other processes used {use.foreign:.2f} of {use.count} processors {when}{who}"


def _exceeds(use: ForeignUse, processors: float, limit_percent: float) -> bool:
    """Whether so many processors are more than the limit, and more than the error of counting them."""
    return 100.0 * processors > limit_percent * use.count and _much(use, processors)


def _much(use: ForeignUse, processors: float) -> bool:
    return processors * use.seconds >= _LEAST_SECONDS


def _trouble_of_gpu(neighbours: GpuNeighbours) -> str | None:
    if not neighbours.computed:
        return None
    who = ", ".join(f"pid {pid}: {share} % of the SMs" for pid, share in sorted(neighbours.computed.items()))
    return f"another process computed on the GPU beside its samples ({who})"


def _more(sum_s: float | None, before: float | None, after: float | None) -> float | None:
    return None if sum_s is None or before is None or after is None else sum_s + max(0.0, after - before)
