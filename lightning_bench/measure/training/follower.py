"""The process of a rank besides the first: it takes the steps that the first announces."""

from __future__ import annotations

import pickle
import sys
import traceback

from lightning_bench.case import Case
from lightning_bench.machine.guardian import die_with_parent
from lightning_bench.measure.device.lap_clock import CpuLapClock
from lightning_bench.measure.training.rank import Rank, RankRequest, join
from lightning_bench.measure.training.trainer import Trainer
from lightning_bench.providers import get_provider, load_error
from lightning_bench.providers.registry.base import Provider


def main() -> int:
    """Be the rank that stdin describes. Return the exit code; what is raised is left in the folder."""
    die_with_parent()
    request: RankRequest = pickle.load(sys.stdin.buffer)
    rank, folder = request.rank, request.folder
    try:
        provider = get_provider(request.case.provider)
        provider.load()
        (folder / f"ready{rank.number}").touch()
        join(rank, request.case.shape.device, folder)
        follow(request.case, provider, request.seed, rank)
    except BaseException as error:
        traceback.print_exc()
        (folder / f"failed{rank.number}").write_text(load_error(error))
        return 1
    return 0


def follow(case: Case, provider: Provider, seed: int, rank: Rank) -> None:
    """Take the steps that the first rank announces, in a group that this process has joined."""
    trainer = Trainer(case.shape, provider, seed, rank)
    while count := rank.announce(0):
        clock = CpuLapClock()
        for _ in range(count):
            trainer.step(clock)
    rank.apart(trainer.replicated)
