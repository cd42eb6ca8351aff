"""One of the processes that train a model together on devices of one host, and what they tell each other."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor, distributed

from lightning_bench.case import Case, Device

_TIMEOUT = timedelta(minutes=5)
"""How long a collective waits for a rank that compiles."""


@dataclass(frozen=True)
class Rank:
    """One of `count` ranks, which this process is."""

    number: int
    count: int

    def announce(self, steps: int) -> int:
        """Tell the other ranks, or be told by the first, how many steps follow; 0 ends the case."""
        told = torch.tensor([steps], device="cpu")
        distributed.broadcast(told, 0)
        return int(told)

    def apart(self, weights: list[Tensor]) -> bool:
        """Return whether weights that every rank has are not the same bits everywhere. All ranks call it."""
        if not weights:
            return False
        own = torch.stack([x.detach().double().sum() for x in weights]).cpu()
        least, most = own.clone(), own.clone()
        distributed.all_reduce(least, distributed.ReduceOp.MIN)
        distributed.all_reduce(most, distributed.ReduceOp.MAX)
        return not torch.equal(least, most)


@dataclass(frozen=True)
class RankRequest:
    """What a process is asked to be: a rank of a case, whose ranks meet in a folder."""

    case: Case
    seed: int
    rank: Rank
    folder: Path


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
