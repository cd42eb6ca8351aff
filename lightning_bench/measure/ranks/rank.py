"""One of the processes of one host that share a case, and what they tell each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from lightning_bench.case import Case, Device
from lightning_bench.providers.registry.base import Provider

Said = TypeVar("Said")

_CPU = torch.device("cpu")
_TIMEOUT = timedelta(minutes=5)
"""How long a collective waits for a rank that compiles."""


@dataclass(frozen=True)
class Rank:
    """One of `count` ranks, which this process is. All ranks call each of these together."""

    number: int
    count: int

    def announce(self, steps: int) -> int:
        """Tell the other ranks, or be told by the first, how many steps follow; 0 ends the case."""
        told = torch.tensor([steps], device="cpu")
        distributed.broadcast(told, 0)
        return int(told)

    def told(self, what: Said | None = None) -> Said:
        """Tell the other ranks, or be told by the first, what all do now: plain data."""
        box: list[Any] = [what]
        distributed.broadcast_object_list(box, 0, device=_CPU)
        said: Said = box[0]
        return said

    def gathered(self, own: Said) -> list[Said]:
        """Return what each rank has to say, in their order: plain data."""
        box: list[Any] = [None] * self.count
        distributed.all_gather_object(box, own)
        return box

    def agreed(self, ms: float, hidden: bool) -> tuple[float, bool]:
        """Return the time of a sample on the rank that took longest, and whether all hid their launches."""
        most = torch.tensor([ms, 0.0 if hidden else 1.0], dtype=torch.float64, device="cpu")
        distributed.all_reduce(most, distributed.ReduceOp.MAX)
        return float(most[0]), not most[1]

    def apart(self, weights: list[Tensor]) -> bool:
        """Return whether weights that every rank has are not the same bits everywhere."""
        if not weights:
            return False
        own = torch.stack([x.detach().double().sum() for x in weights]).cpu()
        least, most = own.clone(), own.clone()
        distributed.all_reduce(least, distributed.ReduceOp.MIN)
        distributed.all_reduce(most, distributed.ReduceOp.MAX)
        return not torch.equal(least, most)


Follow = Callable[["RankRequest", Mapping[str, Provider]], None]
"""What a rank besides the first does in its group until the first one says that all ends: a function of a
module, with loaded providers by their specs."""


@dataclass(frozen=True)
class RankRequest:
    """What a process is asked to be: a rank of cases of one shape, whose ranks meet in a folder."""

    cases: tuple[Case, ...]
    seed: int
    rank: Rank
    folder: Path
    follow: Follow


def join(rank: Rank, device: Device, folder: Path) -> None:
    """Become a rank of the group that meets in a folder. On GPUs collectives of GPU tensors are NCCL's."""
    if device == "cuda":
        torch.cuda.set_device(rank.number)
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
        init_method=f"file://{folder}/store",
        rank=rank.number,
        world_size=rank.count,
        timeout=_TIMEOUT,
    )
