"""A place: the one GPU or the processors that a worker measures on, and which no two sweeps have at once."""

from __future__ import annotations

import os
from dataclasses import dataclass

from lightning_bench.machine.gpu import Gpu, see_only


@dataclass(frozen=True)
class Place:
    """One GPU or MIG slice, or some processors by their numbers."""

    gpu: Gpu | None = None
    processors: tuple[int, ...] = ()

    def enter(self) -> None:
        """Leave this process, and those that it starts, only this device; call it before CUDA starts."""
        if self.gpu is not None:
            see_only(self.gpu)
        if self.processors:
            os.sched_setaffinity(0, self.processors)

    @property
    def devices(self) -> tuple[str, ...]:
        """What it consists of, as `hold` names it."""
        if self.gpu is not None:
            return (self.gpu.uuid,)
        return tuple(f"processor {number}" for number in self.processors)
