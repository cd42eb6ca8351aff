"""The ranks of a case that trains on several devices of one host: the worker is the first, others follow it.

The first rank measures, and says before each turn how many steps follow. Every rank has the same model and
reads a text of its own. The environment of the other ranks is that of torchrun.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import torch
from torch import distributed

from lightning_bench.case import Case
from lightning_bench.errors import UsageError
from lightning_bench.machine.gpu import Gpu, usable_gpus
from lightning_bench.machine.place_lock import hold
from lightning_bench.machine.scratch import scratch_folder
from lightning_bench.measure.job import CaseEnded
from lightning_bench.measure.training.rank import Rank, RankRequest, join

_START_LIMIT_S, _END_LIMIT_S, _FAILS_LATER_S = 180.0, 10.0, 1.0
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop()); "
    "from lightning_bench.measure.training.follower import main; sys.exit(main())"
)

_Others = dict[int, "subprocess.Popen[bytes]"]


@contextmanager
def first_of_ranks(case: Case, seed: int) -> Iterator[Rank | None]:
    """Start the other ranks of a case, and yield the first; None for a case of one device.

    Raise CaseEnded if there are not as many GPUs, and RuntimeError with what another rank has raised.
    """
    count, device = case.shape.model_run.ranks, case.shape.device
    if not count:
        yield None
        return
    if device == "cuda" and (here := torch.cuda.device_count()) < count:
        raise CaseEnded("unavailable", f"needs {count} GPUs, and this process sees {here}")
    with ExitStack() as stack:
        if device == "cuda":
            _lock(usable_gpus()[1:count], stack)
        folder = stack.enter_context(scratch_folder())
        requests = [RankRequest(case, seed, Rank(number, count), folder) for number in range(1, count)]
        others: _Others = {request.rank.number: _started(request) for request in requests}
        try:
            _await_ready(folder, others)
            first = Rank(0, count)
            join(first, device, folder)
            yield first
        except Exception as error:
            if reason := _failure(folder, others):
                raise RuntimeError(reason) from error
            raise
        finally:
            if distributed.is_initialized():
                distributed.destroy_process_group()
            for process in others.values():
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_END_LIMIT_S)
                process.kill()
                process.wait()


def _lock(gpus: list[Gpu], stack: ExitStack) -> None:
    """Keep other sweeps off the GPUs of the other ranks; the first one's is locked by the sweep.

    Raise CaseEnded if another sweep has one of them.
    """
    try:
        stack.enter_context(hold({gpu.uuid: f"the GPU of rank {at}" for at, gpu in enumerate(gpus, start=1)}))
    except UsageError as error:
        raise CaseEnded("unavailable", str(error)) from error


def _started(request: RankRequest) -> subprocess.Popen[bytes]:
    rank = request.rank
    threads = max(1, torch.get_num_threads() // rank.count)
    numbers = {"RANK": rank.number, "LOCAL_RANK": rank.number, "OMP_NUM_THREADS": threads}
    numbers |= {"WORLD_SIZE": rank.count, "LOCAL_WORLD_SIZE": rank.count}
    process = subprocess.Popen(
        [sys.executable, "-c", _START, json.dumps(sys.path)],
        stdin=subprocess.PIPE,
        env=os.environ | {name: str(number) for name, number in numbers.items()},
    )
    assert process.stdin is not None
    with process.stdin as stdin:
        pickle.dump(request, stdin)
    return process


def _await_ready(folder: Path, others: _Others) -> None:
    begin = time.monotonic()
    while not all((folder / f"ready{number}").exists() for number in others):
        if any(process.poll() is not None for process in others.values()):
            raise RuntimeError("a rank has ended before it was ready")
        if time.monotonic() - begin > _START_LIMIT_S:
            raise RuntimeError(f"the ranks were not ready within {_START_LIMIT_S:.0f} s")
        time.sleep(0.01)


def _failure(folder: Path, others: _Others) -> str:
    """Return what a rank besides the first has raised, or how it has ended; "" if none has failed."""
    deadline = time.monotonic() + _FAILS_LATER_S
    while time.monotonic() < deadline and all(process.poll() is None for process in others.values()):
        time.sleep(0.01)
    for number, process in others.items():
        path = folder / f"failed{number}"
        if path.exists():
            return f"rank {number}: {path.read_text()}"
        if process.poll():
            return f"rank {number} ended with exit code {process.returncode}"
    return ""
