"""Timers: how a sample is taken on each device. Everything else works on the `Timer` protocol."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, Protocol

import torch

from lightning_bench.case import Device
from lightning_bench.measure.device.call_watch import CallWatch, NoCallWatch
from lightning_bench.measure.device.graph import NoGraphError, Replay, capture_graph
from lightning_bench.measure.device.persisting_l2 import PersistingL2, loaded_driver
from lightning_bench.measure.device.spins import Spins
from lightning_bench.measure.device.stream_clock import SampleClock, StreamClock, make_stream_clock

TimedCall = Callable[[], Any]
"""What is timed: a call without arguments."""

Agree = Callable[[float, bool], tuple[float, bool]]
"""What a sample counts as, in ms, and whether its launches were hidden, where others take it too."""

# Taken before any provider is imported, which could replace them.
_now_ns = time.perf_counter_ns
_synchronize = torch.cuda.synchronize

_MIN_FLUSH_BYTES = 2**27
_EMPTY_SAMPLES = 300


class Timer(Protocol):
    """Takes samples of a call; milliseconds throughout."""

    def sample(self, fn: TimedCall, count: int, watch: CallWatch) -> list[float]:
        """Return the device times of `count` calls, each with a cold cache and, on a GPU, launches hidden."""

    def call(self, fn: TimedCall, watch: CallWatch) -> float:
        """Return how long an eager caller waits for one call, launch included."""

    def capture(self, build: Callable[[], TimedCall]) -> Replay:
        """Return a CUDA graph of the call that `build` makes. Raise NoGraphError if there can be none."""

    def clocks(self) -> list[SampleClock | None]:
        """Return the SM clock during each sample of the last `sample`; [] if none is read."""

    def exposed(self, fn: TimedCall) -> bool:
        """Return whether launches could not be kept ahead of the device, so that samples include waiting."""

    def empty_us(self) -> float | None:
        """Return what a sample of no work takes, µs, measured once; None on a CPU."""

    def now(self) -> float:
        """Return seconds on a monotonic clock."""

    def release(self) -> None:
        """Give back buffers."""


def _alone(ms: float, hidden: bool) -> tuple[float, bool]:
    return ms, hidden


class CpuTimer:
    """Monotonic clock, no flush."""

    def __init__(self, agree: Agree = _alone) -> None:
        self._agree = agree

    def sample(self, fn: TimedCall, count: int, watch: CallWatch) -> list[float]:
        """Return the wall time of each call in ms."""
        times = []
        now = _now_ns  # a local, which a call cannot replace
        for _ in range(count):
            watch.before()
            begin = now()
            result = fn()
            end = now()
            ms, _ = self._agree((end - begin) / 1e6, True)
            times.append(ms)
            watch.after(result)
        return times

    def call(self, fn: TimedCall, watch: CallWatch) -> float:
        """Return the wall time of one call in ms."""
        return self.sample(fn, 1, watch)[0]

    def capture(self, build: Callable[[], TimedCall]) -> Replay:
        """Raise NoGraphError."""
        raise NoGraphError("no graph_ms: CUDA graphs need a CUDA device")

    def clocks(self) -> list[SampleClock | None]:
        """Return []."""
        return []

    def exposed(self, fn: TimedCall) -> bool:
        """Return False: a CPU has no launches."""
        return False

    def empty_us(self) -> None:
        """Return None: no event is recorded."""
        return

    def now(self) -> float:
        """Return seconds."""
        return _now_ns() / 1e9

    def release(self) -> None:
        """Do nothing: there is no buffer."""


class CudaTimer:
    """CUDA events around each call; the L2 is overwritten before each, outside the timed region.

    Each sample is enqueued behind a spinning kernel, so that the device never waits for a launch. Whether
    that held is checked: if the first event had passed before the last launch was enqueued, the sample is
    taken again behind a longer spin. A call that synchronises, or that launches more than the queue holds,
    stays exposed however long the spin: it is then timed without one, and reported as exposed.

    Samples are taken singly, as lines that a kernel asks the L2 to keep outlast the flush, and only the host
    can make them normal ones, while the device is idle.

    The SM clock is read in the stream, from before the flush to after the call and its audit: nothing is
    enqueued for it between the flush and the second event.
    """

    def __init__(self, clock: StreamClock | None = None, agree: Agree = _alone) -> None:
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        self._agree = agree
        self._flush_bytes = max(_MIN_FLUSH_BYTES, 2 * properties.L2_cache_size)
        self._flush: torch.Tensor | None = None
        self._cycles_per_ms = _spin_rate()
        self._persisting_l2 = PersistingL2(loaded_driver())
        self._spins = Spins()
        self._stream_clock = clock
        self._clocks: list[SampleClock | None] = []
        self._empty_us: float | None = None

    def sample(self, fn: TimedCall, count: int, watch: CallWatch) -> list[float]:
        """Return the device time of each call in ms."""
        clock = self._stream_clock = self._stream_clock or make_stream_clock()
        self._clocks = []
        return [self._one(fn, watch, clock) for _ in range(count)]

    def clocks(self) -> list[SampleClock | None]:
        """Return the SM clock during each sample of the last `sample`, None where it is not known."""
        return self._clocks

    def _one(self, fn: TimedCall, watch: CallWatch, clock: StreamClock) -> float:
        while True:
            ms, hidden = self._agree(*self._take(fn, self._spins.ms(fn), watch, clock))
            if hidden or self._spins.exposed(fn):
                self._clocks.append(clock.read())
                return ms
            self._spins.lengthen(fn)

    def capture(self, build: Callable[[], TimedCall]) -> Replay:
        """Return a CUDA graph of the call. Raise NoGraphError if it cannot be captured."""
        return capture_graph(build)

    def exposed(self, fn: TimedCall) -> bool:
        """Return whether sampling found the call exposed."""
        return self._spins.exposed(fn)

    def empty_us(self) -> float:
        """Return the median time between two events with nothing between them, in samples as others, µs."""
        if self._empty_us is None:
            self._empty_us = 1e3 * statistics.median(self.sample(_nothing, _EMPTY_SAMPLES, NoCallWatch()))
        return self._empty_us

    def call(self, fn: TimedCall, watch: CallWatch) -> float:
        """Return the wall time of one call and the wait for it, in ms."""
        now, synchronize = _now_ns, _synchronize
        watch.before()
        synchronize()
        begin = now()
        result = fn()
        synchronize()
        end = now()
        watch.after(result)
        return self._agree((end - begin) / 1e6, True)[0]

    def now(self) -> float:
        """Return seconds."""
        return _now_ns() / 1e9

    def release(self) -> None:
        """Give back the flush buffer."""
        self._flush = None

    def _take(
        self, fn: TimedCall, spin_ms: float, watch: CallWatch, clock: StreamClock
    ) -> tuple[float, bool]:
        """Return one sample in ms, and whether all launches were enqueued before the device came to them."""
        if self._flush is None:
            self._flush = torch.empty(self._flush_bytes, dtype=torch.int8, device="cuda")
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        last = torch.cuda.Event()
        _synchronize()
        self._persisting_l2.reset()
        if spin_ms:
            torch.cuda._sleep(int(spin_ms * self._cycles_per_ms))
        watch.before()
        clock.begin()
        begin, finish = start.record, end.record
        self._flush.zero_()
        begin()
        result = fn()
        finish()
        watch.after(result)
        del result
        hidden = not start.query()
        clock.end()
        last.record()
        last.synchronize()
        drain = _now_ns()
        _synchronize()
        watch.drained((_now_ns() - drain) / 1e6)
        return start.elapsed_time(end), hidden


def _nothing() -> None:
    pass


def _spin_rate() -> float:
    """Return the cycles of the spinning kernel per ms."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    cycles = 10_000_000
    torch.cuda._sleep(cycles)
    start.record()
    torch.cuda._sleep(cycles)
    end.record()
    end.synchronize()
    return cycles / float(start.elapsed_time(end))


def make_timer(device: Device, agree: Agree = _alone) -> CpuTimer | CudaTimer:
    """Return the timer of a device; all who take its samples together count what they `agree` on."""
    return CudaTimer(agree=agree) if device == "cuda" else CpuTimer(agree)
