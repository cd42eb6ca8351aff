"""The calls of cases whose sequences lie on several ranks, as the bench of the first rank sees them.

Each is a call with whole inputs and whole results, whose time is that of the rank that took longest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_bench.case import Case
from lightning_bench.measure.calls import DirectionCall
from lightning_bench.measure.device.call_watch import CallWatch
from lightning_bench.measure.device.graph import NoGraphError, Replay
from lightning_bench.measure.device.stream_clock import SampleClock
from lightning_bench.measure.device.timer import TimedCall, Timer
from lightning_bench.measure.inputs import InputSet
from lightning_bench.measure.memory_row import CallMemory
from lightning_bench.measure.ranks.part import (
    AgreedEndError,
    Command,
    FirstWatch,
    RankPart,
    What,
    follow_calls,
)
from lightning_bench.measure.ranks.team import Team, team_of, threads_of_rank
from lightning_bench.measure.session import PoisonedError
from lightning_bench.providers.registry.base import Provider


@dataclass(frozen=True)
class _RankedCall(DirectionCall):
    """A call of all ranks: `fn` is the first one's share of it, `whole` gives the results of all."""

    whole: Callable[[], dict[str, Tensor]] = dict

    def run(self) -> None:
        """Make the call on every rank, untimed."""
        self.whole()

    def tensors(self) -> dict[str, Tensor]:
        """Compute and return all results of the direction, of all ranks together."""
        return self.whole()


class RankedCalls:
    """Has all ranks do what the first one's bench asks for. `inputs` are the whole ones.

    After a rank has failed, the others may wait for it for ever: they are killed, the error is raised, and
    everything after it raises PoisonedError.
    """

    def __init__(self, team: Team, part: RankPart) -> None:
        self._team, self._part = team, part
        self._lost = ""
        self._of_fn: dict[TimedCall, tuple[str, InputSet]] = {}

    def call(self, case: Case, inputs: InputSet) -> DirectionCall:
        """Build the call of a case on every rank. Raise CaseEnded if one cannot."""
        with self._together("build", case.id):
            self._part.build(case.id, inputs)
        fn = self._part.fn(case.id)
        self._of_fn[fn] = case.id, inputs

        def renew() -> None:
            with self._together("renew", case.id):
                self._part.renew(case.id, inputs)

        def whole() -> dict[str, Tensor]:
            with self._together("results", case.id):
                results = self._part.results(case.id, inputs)
            assert results is not None
            return results

        kept = self._part.kept
        needed = renew if case.direction == "bwd" else _nothing
        return _RankedCall(fn, lambda: kept(case.id), needed, whole=whole)

    @property
    def held_bytes(self) -> int:
        """Bytes that the first rank has of its own beside the whole inputs."""
        return self._part.held_bytes

    def forget(self) -> None:
        """Have every rank drop its calls: those that were built before cannot be made any more."""
        self._of_fn.clear()
        with self._together("forget"):
            self._part.forget()

    def memory(self, case: Case, inputs: InputSet) -> CallMemory:
        """Measure the memory of one call, of the rank with the most. Raise CaseEnded if there is none."""
        self.forget()  # what a call needs is measured, not what others have kept
        with self._together("memory", case.id):
            return self._part.memory(case.id, inputs)

    def sample(self, fn: TimedCall, count: int, watch: CallWatch) -> list[float]:
        """Return the times of `count` calls, each of the rank that took longest."""
        case_id, inputs = self._of_fn[fn]
        with self._together("sample", case_id, count):
            times = self._part.timer.sample(fn, count, FirstWatch(self._part, case_id, inputs, watch))
            watch.failure = self._part.end_timed(case_id) or watch.failure
            return times

    def wait(self, fn: TimedCall, watch: CallWatch) -> float:
        """Return how long an eager caller waits for one call, on the rank where that is longest."""
        case_id, inputs = self._of_fn[fn]
        with self._together("call", case_id):
            ms = self._part.timer.call(fn, FirstWatch(self._part, case_id, inputs, watch))
            watch.failure = self._part.end_timed(case_id) or watch.failure
            return ms

    def timer(self, alone: Timer) -> Timer:
        """Return the timer of these calls; `alone` is that of calls on this device only."""
        return _RankedTimer(self, self._part.timer, alone)

    def end(self) -> None:
        """Tell the other ranks that they are done."""
        self._team.expect_end()
        if not self._lost:
            self._team.first.told(Command("end"))

    @contextmanager
    def _together(self, what: What, case_id: str = "", count: int = 0) -> Iterator[None]:
        if self._lost:
            raise PoisonedError(self._lost)
        try:
            self._team.first.told(Command(what, case_id, count))
            yield
        except AgreedEndError:
            raise
        except Exception as error:
            reason = self._team.failure()
            self._lost = f"a rank has failed: {reason or error}"
            self._team.disband()
            if reason:
                raise RuntimeError(reason) from error
            raise


class _RankedTimer:
    """Takes the samples of calls of all ranks; what concerns one device only is left to `alone`."""

    def __init__(self, calls: RankedCalls, own: Timer, alone: Timer) -> None:
        self._calls, self._own, self._alone = calls, own, alone

    def sample(self, fn: TimedCall, count: int, watch: CallWatch) -> list[float]:
        """Return the device times of `count` calls, ms."""
        return self._calls.sample(fn, count, watch)

    def call(self, fn: TimedCall, watch: CallWatch) -> float:
        """Return how long an eager caller waits for one call, ms."""
        return self._calls.wait(fn, watch)

    def capture(self, build: Callable[[], TimedCall]) -> Replay:
        """Raise NoGraphError."""
        raise NoGraphError("no graph_ms: calls of several ranks are not captured")

    def clocks(self) -> list[SampleClock | None]:
        """Return the SM clock of the first rank's GPU during each sample of the last `sample`."""
        return self._own.clocks()

    def exposed(self, fn: TimedCall) -> bool:
        """Return whether launches of a rank could not be kept ahead of its device."""
        return self._own.exposed(fn)

    def empty_us(self) -> float | None:
        """Return what a sample of no work takes on this device, µs."""
        return self._alone.empty_us()

    def now(self) -> float:
        """Return seconds on a monotonic clock."""
        return self._alone.now()

    def release(self) -> None:
        """Give back buffers."""
        self._own.release()


@contextmanager
def ranked_calls(
    cases: Sequence[Case], providers: Mapping[str, Provider], seed: int
) -> Iterator[RankedCalls]:
    """Start the ranks of cases of one shape that is split, and yield what has them make calls.

    On a CPU they share the threads of this process. Raise as `team_of` does.
    """
    with ExitStack() as stack:
        team = stack.enter_context(team_of(cases, seed, follow_calls))
        assert team is not None
        if cases[0].shape.device == "cpu":
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(threads_of_rank(team.first.count))
        calls = RankedCalls(team, RankPart(cases, providers, team.first))
        stack.callback(calls.end)
        yield calls


def _nothing() -> None:
    pass
