"""The process of a rank besides the first: it does what the first announces."""

from __future__ import annotations

import gc
import pickle
import sys
import traceback

import torch
from torch import distributed

from lightning_bench.machine.guardian import die_with_parent
from lightning_bench.measure.guard import GUARD
from lightning_bench.measure.ranks.rank import RankRequest, join
from lightning_bench.providers import get_provider, load_error


def main() -> int:
    """Be the rank that stdin describes. Return the exit code; what is raised is left in the folder."""
    die_with_parent()
    request: RankRequest = pickle.load(sys.stdin.buffer)
    rank, folder, cases = request.rank, request.folder, request.cases
    gc.freeze()  # as the worker that is the first rank does
    try:
        if cases[0].shape.device == "cuda":
            torch.cuda.set_device(rank.number)  # before a library makes itself at home on the first one
        GUARD.keep()
        providers = {case.provider: get_provider(case.provider) for case in cases}
        for provider in providers.values():
            provider.load()
        (folder / f"ready{rank.number}").touch()
        join(rank, cases[0].shape.device, folder)
        request.follow(request, providers)
        distributed.destroy_process_group()
    except BaseException as error:
        traceback.print_exc()
        (folder / f"failed{rank.number}").write_text(load_error(error))
        return 1
    return 0
