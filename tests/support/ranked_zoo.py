"""Providers of sequences whose tokens lie on several ranks: an honest one, and ranks that go wrong."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_bench.providers import Inputs, Provider

if TYPE_CHECKING:
    from torch import Tensor


class OnRanks(Provider):
    """`lightning_attn2_torch` with cp; what `last` does is done on the last rank after it."""

    name = label = "OnRanks"
    family = "linear_decay"
    package = "lightning-bench"
    devices = ("cpu",)
    dtypes = ("fp32",)
    on_ranks = True

    def build(self, inputs: Inputs) -> Callable[[], Tensor]:
        from lightning_kernels import ContextParallel, lightning_attn2_torch

        cp = ContextParallel(lengths=inputs.rank_tokens)
        self.is_last = cp.rank == cp.ranks - 1
        Path(__file__).with_name(f"pid{cp.rank}").write_text(str(os.getpid()))

        def call() -> Tensor:
            o: Tensor = lightning_attn2_torch(inputs.q, inputs.k, inputs.v, inputs.decay, cp=cp)
            return self.last(o) if self.is_last else self.first(o)

        return call

    def first(self, o: Tensor) -> Tensor:
        return o

    def last(self, o: Tensor) -> Tensor:
        return o


class SlowLast(OnRanks):
    name = label = "SlowLast"

    def last(self, o: Tensor) -> Tensor:
        time.sleep(0.03)
        return o


class WrongLast(OnRanks):
    name = label = "WrongLast"

    def last(self, o: Tensor) -> Tensor:
        return o * 1.001


class WholeLast(OnRanks):
    """The last rank returns rows that are not its own, too."""

    name = label = "WholeLast"

    def last(self, o: Tensor) -> Tensor:
        return o.repeat(1, 1, 2, 1)


class WritesLast(OnRanks):
    name = label = "WritesLast"

    def build(self, inputs: Inputs) -> Callable[[], Tensor]:
        call = super().build(inputs)

        def writing() -> Tensor:
            o = call()
            if self.is_last:
                inputs.k.data.mul_(2.0)
            return o

        return writing


def is_timed() -> bool:
    """Return whether a timer makes the call: a cheat can tell."""
    frame = sys._getframe()
    while frame.f_back and frame.f_code.co_name not in ("sample", "results"):
        frame = frame.f_back
    return frame.f_code.co_name == "sample"


class LateLast(OnRanks):
    """In timed calls the last rank returns what computes when it is first used."""

    name = label = "LateLast"

    def last(self, o: Tensor) -> Tensor:
        import torch

        class Late(torch.Tensor):
            @classmethod
            def __torch_function__(cls, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
                return o

        return torch.empty_like(o).as_subclass(Late) if is_timed() else o


class ShortLast(OnRanks):
    """In timed calls the last rank leaves out its last row."""

    name = label = "ShortLast"

    def last(self, o: Tensor) -> Tensor:
        return o[:, :, :-1].contiguous() if is_timed() else o


class OverwritesLast(OnRanks):
    """In timed calls the last rank returns all results in one buffer."""

    name = label = "OverwritesLast"
    buffer: Tensor | None = None

    def last(self, o: Tensor) -> Tensor:
        if not is_timed():
            return o
        self.buffer = o.clone() if self.buffer is None else self.buffer.copy_(o)
        return self.buffer


class ThreadLast(OnRanks):
    """In timed calls the last rank leaves a thread behind."""

    name = label = "ThreadLast"

    def last(self, o: Tensor) -> Tensor:
        if is_timed():
            threading.Thread(target=time.sleep, args=(0.2,), name="late").start()
        return o


class ReplacesLast(OnRanks):
    """In timed calls the last rank replaces a function of torch."""

    name = label = "ReplacesLast"

    def last(self, o: Tensor) -> Tensor:
        import torch

        if is_timed():
            equal = torch.equal
            torch.equal = lambda *given: equal(*given)  # type: ignore[assignment]
        return o


class HungryLast(OnRanks):
    name = label = "HungryLast"

    def last(self, o: Tensor) -> Tensor:
        return o + o.new_zeros(3 * 2**18)[0]


class DiesEarly(OnRanks):
    """The last rank dies in its first call, and the first one waits for its results."""

    name = label = "DiesEarly"

    def last(self, o: Tensor) -> Tensor:
        os._exit(3)


class LeavesEarly(OnRanks):
    """The last rank ends as if all were done."""

    name = label = "LeavesEarly"

    def last(self, o: Tensor) -> Tensor:
        os._exit(0)


class NoRoomLast(OnRanks):
    name = label = "NoRoomLast"

    def last(self, o: Tensor) -> Tensor:
        raise RuntimeError("out of memory, here")


class RaisesFirst(OnRanks):
    name = label = "RaisesFirst"

    def first(self, o: Tensor) -> Tensor:
        raise ValueError("only here")


class HangsLast(OnRanks):
    name = label = "HangsLast"

    def last(self, o: Tensor) -> Tensor:
        while True:
            time.sleep(1)


class LeavesFirst(OnRanks):
    """The last rank dies, and the first one waits for something that no error ends."""

    name = label = "LeavesFirst"

    def build(self, inputs: Inputs) -> Callable[[], Tensor]:
        from lightning_bench.measure.ranks import team

        team._LONELY_S = 0.2  # no error comes, however long it waits for one
        return super().build(inputs)

    def first(self, o: Tensor) -> Tensor:
        while True:
            time.sleep(1)

    def last(self, o: Tensor) -> Tensor:
        os._exit(4)
