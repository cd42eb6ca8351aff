"""What runs on the device for which call, from CUPTI's activity records: on any stream, from any thread.

A call is a window of host time. An API call (a launch, a copy, a fill, the replay of a graph) that begins
in the window has a correlation id, and so has all that it starts on the device.
"""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple

from lightning_bench.errors import UsageError

_BUFFER_BYTES = 2**23
# Records follow their kernels: once the device is idle they come within milliseconds.
_FLUSHES = 5
_PAUSE_S = 0.02


@dataclass(frozen=True)
class ApiCall:
    """A call of the CUDA runtime or driver: when it began, in ns of CUPTI's clock, and its correlation id."""

    begin_ns: int
    correlation: int


class LaunchSize(NamedTuple):
    """How large the launch of a kernel is: programs, threads of each, and bytes of shared memory of each."""

    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int


@dataclass(frozen=True)
class DeviceActivity:
    """A kernel, copy or fill: when it ran, in ns of CUPTI's clock, and the id of the call that started it.

    `size` is None for a copy or fill.
    """

    begin_ns: int
    end_ns: int
    correlation: int
    size: LaunchSize | None = None


Windows = Sequence[tuple[int, int]]
"""First and last ns of each call on the host."""


def activities_of(
    windows: Windows, api_calls: Sequence[ApiCall], activities: Sequence[DeviceActivity]
) -> list[list[DeviceActivity]]:
    """Return for each window what the API calls that began in it ran on the device."""
    ordered = sorted(api_calls, key=lambda call: call.begin_ns)
    begins = [call.begin_ns for call in ordered]
    started = defaultdict(list)
    for activity in activities:
        started[activity.correlation].append(activity)
    found = []
    for begin, end in windows:
        inside = ordered[bisect_left(begins, begin) : bisect_right(begins, end)]
        found.append([a for id_ in {call.correlation for call in inside} for a in started.get(id_, ())])
    return found


def span_ms(activities: Sequence[DeviceActivity]) -> float:
    """Return the time from the start of the first activity to the end of the last, in ms."""
    return (max(a.end_ns for a in activities) - min(a.begin_ns for a in activities)) / 1e6


def busy_ms(activities: Sequence[DeviceActivity]) -> float:
    """Return for how long at least one of the activities ran, in ms: the span without its gaps."""
    busy = reached = 0
    for activity in sorted(activities, key=lambda a: a.begin_ns):
        busy += max(0, activity.end_ns - max(activity.begin_ns, reached))
        reached = max(reached, activity.end_ns)
    return busy / 1e6


def load_cupti() -> Any:
    """Return the module `cupti.cupti`. Raise UsageError, which says what to install, if it does not work."""
    install = "install it with `pip install 'lightning-bench[cupti]'`, which needs CUDA 13 and its driver"
    try:
        cupti = import_module("cupti.cupti")
    except ImportError as error:
        raise UsageError(
            f"CUPTI cannot be used: cupti-python cannot be imported ({error}); {install}"
        ) from error
    try:
        cupti.get_timestamp()  # the first call is the one that loads libcupti
    except Exception as error:  # its own errors have no common class
        raise UsageError(f"CUPTI cannot be used: {type(error).__name__}: {error}; {install}") from error
    return cupti


class CuptiTrace:
    """Collects records between `start` and `stop`. While it does, CUDA calls and kernels are slower."""

    def __init__(self) -> None:
        self._cupti = load_cupti()
        kinds = self._cupti.ActivityKind
        self._api = (kinds.RUNTIME, kinds.DRIVER)
        self._device = (kinds.CONCURRENT_KERNEL, kinds.MEMCPY, kinds.MEMSET)
        self._on = False
        self._api_calls: list[ApiCall] = []
        self._activities: list[DeviceActivity] = []

    def start(self) -> None:
        """Begin to collect. Raise UsageError if CUPTI refuses, as it does while a profiler uses it."""
        if self._on:
            return
        try:
            for kind in (*self._api, *self._device):
                self._cupti.activity_enable(kind)
            self._cupti.activity_register_callbacks(self._buffer, self._take)
        except Exception as error:  # as above
            raise UsageError(
                f"CUPTI does not trace this process: {error}; it has one user at a time: end other profilers"
            ) from error
        self._on = True

    def now_ns(self) -> int:
        """Return the time on CUPTI's clock."""
        return int(self._cupti.get_timestamp())

    def collect(self, windows: Windows) -> list[list[DeviceActivity]]:
        """Return what ran on the device for each window, and forget the records. The device must be idle.

        Raise RuntimeError if nothing ran for one of them.
        """
        for attempt in range(_FLUSHES):
            if attempt:
                time.sleep(_PAUSE_S)
            self._cupti.activity_flush_all(0)
            found = activities_of(windows, self._api_calls, self._activities)
            if found and len({len(activities) for activities in found} | {0}) == 2:
                break  # as many for each, and some
        missing = sum(not activities for activities in found)
        seen = f"{len(self._api_calls)} API calls and {len(self._activities)} device activities"
        self._api_calls.clear()
        self._activities.clear()
        if missing:
            raise RuntimeError(
                f"CUPTI recorded nothing on the device for {missing} of {len(found)} calls ({seen})"
            )
        return found

    def stop(self) -> None:
        """Stop collecting and detach CUPTI from the process."""
        if not self._on:
            return
        self._on = False
        self._cupti.activity_flush_all(0)
        for kind in (*self._api, *self._device):
            self._cupti.activity_disable(kind)
        self._cupti.finalize()
        self._api_calls.clear()
        self._activities.clear()

    @staticmethod
    def _buffer() -> tuple[int, int]:
        """Return the size of a buffer for records, and how many it may hold: 0, as many as fit."""
        return _BUFFER_BYTES, 0

    def _take(self, records: Sequence[Any]) -> None:
        """Keep what is needed of the records; their memory is CUPTI's and does not last."""
        for record in records:
            if record.kind in self._api:
                self._api_calls.append(ApiCall(record.start, record.correlation_id))
            elif record.kind in self._device and record.end:  # 0: CUPTI could not take the time
                size = self._size(record) if record.kind == self._device[0] else None
                self._activities.append(DeviceActivity(record.start, record.end, record.correlation_id, size))

    @staticmethod
    def _size(record: Any) -> LaunchSize:
        return LaunchSize(
            (record.grid_x, record.grid_y, record.grid_z),
            (record.block_x, record.block_y, record.block_z),
            record.static_shared_memory + record.dynamic_shared_memory,
        )
