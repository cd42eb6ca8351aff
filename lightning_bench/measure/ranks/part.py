"""What each rank does of a case whose sequences lie on several: its calls on its part of the tokens.

Every rank runs the same of these methods at the same time. The first has the whole inputs and gets the whole
results; a call itself, from its first to its last moment, is the provider's.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, distributed

from lightning_bench.case import Case, Layout
from lightning_bench.measure.calls import DirectionCall, direction_call
from lightning_bench.measure.device.call_watch import CallWatch, NoCallWatch
from lightning_bench.measure.device.memory import make_meter
from lightning_bench.measure.device.timer import make_timer
from lightning_bench.measure.gate import poisoned
from lightning_bench.measure.guard import GUARD
from lightning_bench.measure.inputs import InputSet, changed_inputs
from lightning_bench.measure.job import CaseEnded
from lightning_bench.measure.leftovers import left_by_call, running_threads
from lightning_bench.measure.likeness import Kinds, plain_tensor
from lightning_bench.measure.memory_row import CallMemory, call_memory
from lightning_bench.measure.ranks.rank import Rank, RankRequest
from lightning_bench.measure.returned import Returned
from lightning_bench.providers.registry.base import Provider

Result = TypeVar("Result")
NamedTensors = dict[str, Tensor]
What = Literal["build", "renew", "results", "sample", "call", "memory", "forget", "end"]


@dataclass(frozen=True)
class Command:
    """What all ranks do now, of which case; a `sample` so many times."""

    what: What
    case_id: str = ""
    count: int = 0


class AgreedEndError(CaseEnded):
    """A case has ended on every rank, which go on with others."""


class RankPart:
    """The part of one rank: its tokens of each sequence, its calls of cases, and its instruments."""

    def __init__(self, cases: Sequence[Case], providers: Mapping[str, Provider], rank: Rank) -> None:
        shape = cases[0].shape
        self._cases, self._providers, self._rank = {case.id: case for case in cases}, providers, rank
        self._sizes = shape.rank_tokens
        self._inputs = InputSet(shape.of_rank(rank.number), rank.number, rank_tokens=shape.rank_tokens)
        self._calls: dict[str, DirectionCall] = {}
        self._returned: dict[str, Returned] = {}
        self._timed_oddness: dict[str, str] = {}
        self._meeting = torch.zeros(1, device=shape.device)
        self._meter = make_meter(shape.device)
        self.timer = make_timer(shape.device, rank.agreed)

    def fn(self, case_id: str) -> Callable[[], NamedTensors]:
        """Return this rank's call of a case, which is timed."""
        return self._calls[case_id].fn

    def kept(self, case_id: str) -> NamedTensors:
        """Return the parts of results that are from before the call."""
        return self._calls[case_id].kept()

    def build(self, case_id: str, whole: InputSet | None) -> None:
        """Make the call of a case. Raise AgreedEndError if a rank cannot."""
        self.take(case_id, whole)
        case = self._cases[case_id]
        provider = self._providers[case.provider]
        self._calls[case_id] = self._agreed(lambda: direction_call(provider, self._inputs, case.direction))
        self._returned[case_id] = Returned(self._kinds(case_id), self._inputs, provider.layout)

    def forget(self) -> None:
        """Drop all calls, with the graphs of their backward passes."""
        self._calls.clear()
        self._returned.clear()

    @property
    def held_bytes(self) -> int:
        """Bytes of this rank's inputs."""
        return self._inputs.held_bytes

    def renew(self, case_id: str, whole: InputSet | None) -> None:
        """Compute again what the call starts from."""
        self.take(case_id, whole)
        self._calls[case_id].renew()

    def results(self, case_id: str, whole: InputSet | None) -> NamedTensors | None:
        """Return all results of the direction, whole; None on other ranks than the first.

        Raise AgreedEndError if a rank has no such results, or has changed its inputs.
        """
        self.take(case_id, whole)
        layout = self._layout(case_id)

        def compute() -> NamedTensors:
            before = self._inputs.hashes(layout)
            with poisoned(self._inputs, gradients=self._cases[case_id].direction != "fwd"):
                found = self._calls[case_id].tensors()
            after = self._inputs.hashes(layout)
            if reason := self._replaced() or self._timed_oddness.get(case_id):
                raise CaseEnded("wrong", reason)
            if reason := changed_inputs(before, after):
                raise CaseEnded("wrong", reason + self._where)
            odd = [reason for name, x in found.items() if (reason := self._odd(case_id, name, x))]
            if reason := "; ".join(odd) or self._inputs.aliased(found, layout):
                raise CaseEnded("wrong", reason + self._where)
            return found

        return self.gather(case_id, self._agreed(compute))

    def memory(self, case_id: str, whole: InputSet | None) -> CallMemory:
        """Return the memory of a call, of the rank with the most. Raise AgreedEndError if a rank has none."""
        self.take(case_id, whole)
        case = self._cases[case_id]
        provider = self._providers[case.provider]
        own = self._agreed(lambda: call_memory(provider, self._inputs, case.direction, self._meter))
        return CallMemory.largest(self._rank.gathered(own))

    def meet(self) -> None:
        """Wait for the other ranks; on a GPU, have the device wait."""
        distributed.all_reduce(self._meeting)

    def take(self, case_id: str, whole: InputSet | None) -> None:
        """Fill the inputs with this rank's part of the whole ones, which the first rank has."""
        own = self._tensors(case_id)
        if whole is None:
            for x in own.values():
                distributed.recv(x.data, 0)
            return
        for name, x in self._named(case_id, whole).items():
            parts = x.detach().split(self._sizes, self._axis(case_id))
            own[name].data.copy_(parts[0])
            for number, part in enumerate(parts[1:], start=1):
                distributed.send(part.contiguous(), number)

    def gather(self, case_id: str, found: Mapping[str, Tensor]) -> NamedTensors | None:
        """Return the results of all ranks, each put together; None on other ranks than the first."""
        if self._rank.number:
            for _, x in sorted(found.items()):
                distributed.send(x.detach().contiguous(), 0)
            return None
        axis, whole = self._axis(case_id), {}
        for name, x in sorted(found.items()):
            parts = [x.detach()]
            for number, tokens in enumerate(self._sizes[1:], start=1):
                size = list(x.shape)
                size[axis] = tokens
                parts.append(x.new_empty(size))
                distributed.recv(parts[-1], number)
            whole[name] = torch.cat(parts, axis)
        return {name: whole[name] for name in found}

    def gather_timed(
        self, case_id: str, found: NamedTensors, threads: Collection[threading.Thread] | None = None
    ) -> NamedTensors | None:
        """Do as `gather` with the results of a timed call: NaN in place of what cannot be put together.

        `threads` are those that ran before the call, None if another looks at them.
        """
        left = None if threads is None else left_by_call(threads)
        if odd := self._returned[case_id].odd(found):
            kinds = ((name, *self._kinds(case_id)[name]) for name in found)
            found = {
                name: torch.full(size, math.nan, dtype=dtype, device=on) for name, size, dtype, on in kinds
            }
        if reason := left or odd:
            self._timed_oddness.setdefault(case_id, reason + self._where)
        return self.gather(case_id, found)

    def end_timed(self, case_id: str) -> str | None:
        """Let go of the results of timed calls. Return what was odd about a call, on any rank, or None."""
        if reason := self._replaced():
            self._timed_oddness.setdefault(case_id, reason)
        self._returned[case_id].ends()
        return next(filter(None, self._rank.gathered(self._timed_oddness.get(case_id))), None)

    def _replaced(self) -> str | None:
        """Put back and name what has been replaced in this process; in the first rank's the audit does."""
        found = GUARD.replaced() if self._rank.number else None
        return found and found + self._where

    def _agreed(self, work: Callable[[], Result]) -> Result:
        """Do what all ranks do. Raise AgreedEndError if the case ends so on one of them."""
        ended: tuple[Any, str] | None = None
        try:
            result = work()
        except CaseEnded as error:
            ended = error.status, error.reason
        for told in self._rank.gathered(ended):
            if told is not None:
                raise AgreedEndError(*told)
        return result

    def _odd(self, case_id: str, name: str, x: Tensor) -> str | None:
        """Return why a result of this rank is none that can be put together with others', or None."""
        if reason := plain_tensor(name, x):
            return reason
        size, dtype, device = self._kinds(case_id)[name]
        if (x.shape, x.dtype) != (size, dtype):
            return f"{name} is {x.dtype} {tuple(x.shape)}, not {dtype} {tuple(size)}"
        return None if x.device == device else f"{name} is on {x.device}, not on {device}"

    def _kinds(self, case_id: str) -> Kinds:
        layout = self._layout(case_id)
        given, do = self._inputs.inputs(layout), self._inputs.grad_output(layout)
        like = {"o": do, "dq": given.q, "dk": given.k, "dv": given.v}
        return {name: (x.shape, x.dtype, x.device) for name, x in like.items()}

    @property
    def _where(self) -> str:
        return f" (rank {self._rank.number})"

    def _tensors(self, case_id: str) -> dict[str, Tensor]:
        return self._named(case_id, self._inputs)

    def _named(self, case_id: str, inputs: InputSet) -> dict[str, Tensor]:
        layout = self._layout(case_id)
        given = inputs.inputs(layout)
        read = {"q": given.q, "k": given.k, "v": given.v}
        if self._cases[case_id].direction != "fwd":
            read["do"] = inputs.grad_output(layout)
        return read

    def _axis(self, case_id: str) -> int:
        return 2 if self._layout(case_id) == "bhnd" else 1

    def _layout(self, case_id: str) -> Layout:
        return self._providers[self._cases[case_id].provider].layout


class _OtherWatch(NoCallWatch):
    """Around each timed call of a rank besides the first: its inputs come, and its results go."""

    def __init__(self, part: RankPart, case_id: str) -> None:
        self._part, self._case_id = part, case_id
        self._threads: list[threading.Thread] = []

    def before(self) -> None:
        """Take the inputs and wait for the others."""
        self._part.take(self._case_id, None)
        self._threads = running_threads()
        self._part.meet()

    def after(self, result: Any) -> None:
        """Send the results."""
        self._part.gather_timed(self._case_id, result, self._threads)


class FirstWatch:
    """Around each timed call of the first rank: the watch of the case, which sees whole results."""

    def __init__(self, part: RankPart, case_id: str, whole: InputSet, watch: CallWatch) -> None:
        self._part, self._case_id, self._whole, self._watch = part, case_id, whole, watch
        self.failure = watch.failure

    def begins(self, *, certain: bool = False) -> None:
        """Pass on."""
        self._watch.begins(certain=certain)

    def before(self) -> None:
        """Pass on, give each rank its inputs, and wait for all."""
        self._watch.before()
        self._part.take(self._case_id, self._whole)
        self._part.meet()

    def after(self, result: Any) -> None:
        """Pass on the results of all ranks."""
        self._watch.after(self._part.gather_timed(self._case_id, result))

    def drained(self, ms: float) -> None:
        """Pass on."""
        self._watch.drained(ms)

    def ends(self) -> None:
        """Pass on."""
        self._watch.ends()


def follow_calls(request: RankRequest, providers: Mapping[str, Provider]) -> None:
    """Do what the first rank says, until it says that all ends."""
    part = RankPart(request.cases, providers, request.rank)
    while True:
        command: Command = request.rank.told()
        name = command.case_id
        try:
            match command.what:
                case "build":
                    part.build(name, None)
                case "renew":
                    part.renew(name, None)
                case "results":
                    part.results(name, None)
                case "sample":
                    part.timer.sample(part.fn(name), command.count, _OtherWatch(part, name))
                    part.end_timed(name)
                case "call":
                    part.timer.call(part.fn(name), _OtherWatch(part, name))
                    part.end_timed(name)
                case "memory":
                    part.memory(name, None)
                case "forget":
                    part.forget()
                case "end":
                    return
        except AgreedEndError:
            continue
