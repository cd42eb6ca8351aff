"""A second timer of a GPU, which does not use events: CUPTI's records of what a call ran on the device.

It needs the extra `cupti`. `lbench` does not time with it; benchmarks/timer_agreement.py compares both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lightning_bench.measure.device.call_watch import CallWatch
from lightning_bench.measure.device.cupti_trace import CuptiTrace, LaunchSize, busy_ms, span_ms
from lightning_bench.measure.device.stream_clock import SampleClock
from lightning_bench.measure.device.timer import CudaTimer, TimedCall


@dataclass(frozen=True)
class TracedCall:
    """One call: its span and the part of it in which something ran, by CUPTI, in ms.

    `activities` is the number of its kernels, copies and fills; `events_ms` the time between the two events
    that `CudaTimer` put around the same call. `first` and `last` are the sizes of the kernels with which it
    begins and ends, None where that is a copy or fill.
    """

    span_ms: float
    busy_ms: float
    activities: int
    events_ms: float
    first: LaunchSize | None = None
    last: LaunchSize | None = None


class _Marked:
    """A call that notes when it last began and ended on the host, in ns of CUPTI's clock."""

    def __init__(self, fn: TimedCall, now_ns: Callable[[], int]) -> None:
        self._fn, self._now_ns = fn, now_ns
        self.window = (0, 0)

    def __call__(self) -> Any:
        begin = self._now_ns()
        result = self._fn()
        self.window = begin, self._now_ns()
        return result


class CuptiTimer(CudaTimer):
    """From the start of the first kernel, copy or fill of a call to the end of the last, on all streams.

    Calls are enqueued as `CudaTimer` does: behind a spinning kernel, each after a flush of the L2, which is
    launched before the call and does not count. CUPTI traces from the first sample until `release`. Raise
    UsageError if CUPTI cannot be used: there is no other clock to fall back to.
    """

    def __init__(self) -> None:
        self._trace = CuptiTrace()
        super().__init__()
        self._marked: dict[int, _Marked] = {}
        self._clocks_of_calls: list[SampleClock | None] = []
        self.calls: list[TracedCall] = []  # all that were sampled since the last release, in order

    def sample(self, fn: TimedCall, count: int, watch: CallWatch) -> list[float]:
        """Return the spans of `count` calls in ms."""
        self._trace.start()
        marked = self._mark(fn)
        events: list[float] = []
        windows: list[tuple[int, int]] = []
        self._clocks_of_calls = []
        for _ in range(count):
            events += super().sample(marked, 1, watch)
            self._clocks_of_calls += super().clocks()
            windows.append(marked.window)  # of the last try, which is the sample
        found = self._trace.collect(windows)
        calls = [
            TracedCall(
                span_ms(activities),
                busy_ms(activities),
                len(activities),
                events_ms,
                min(activities, key=lambda a: a.begin_ns).size,
                max(activities, key=lambda a: a.end_ns).size,
            )
            for activities, events_ms in zip(found, events, strict=True)
        ]
        self.calls += calls
        return [call.span_ms for call in calls]

    def clocks(self) -> list[SampleClock | None]:
        """Return the SM clock during each sample of the last `sample`, None where it is not known."""
        return self._clocks_of_calls

    def exposed(self, fn: TimedCall) -> bool:
        """Return whether sampling found the call exposed."""
        return super().exposed(self._mark(fn))

    def empty_us(self) -> float:
        """Return 0: a span begins and ends with what a call runs, and has nothing else in it."""
        return 0.0

    def release(self) -> None:
        """Give back the buffer, stop tracing and forget all calls."""
        super().release()
        self._trace.stop()
        self._marked.clear()
        self.calls.clear()

    def _mark(self, fn: TimedCall) -> _Marked:
        """Return the call that `CudaTimer` sees, always the same for `fn`: it learns about each."""
        return self._marked.setdefault(id(fn), _Marked(fn, self._trace.now_ns))
