"""The ranks of cases that share devices of one host: the worker is the first, others follow it.

The first rank measures, and says before each turn what all do. The environment of the other ranks is that of
torchrun. A rank that fails ends the worker too, which could wait for it for ever.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
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
from lightning_bench.measure.ranks.rank import Follow, Rank, RankRequest, join
from lightning_bench.measure.session import PoisonedError

_START_LIMIT_S, _END_LIMIT_S, _FAILS_LATER_S = 180.0, 10.0, 1.0
_LONELY_S = 5.0
"""How long this process may go on beside a rank that has ended: collectives of gloo raise sooner."""
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop()); "
    "from lightning_bench.measure.ranks.follower import main; sys.exit(main())"
)

_Others = dict[int, "subprocess.Popen[bytes]"]


class Team:
    """The first rank, which this process is, and the processes of the others, which meet in `folder`."""

    def __init__(self, first: Rank, others: _Others, folder: Path) -> None:
        self.first, self._others, self._folder = first, others, folder
        self._ending = threading.Event()

    def failure(self) -> str:
        """Return what a rank besides the first has raised, or how it has ended; "" if none has failed.

        One that ends in order has failed too, unless ranks end from now on.
        """
        return _failure(self._folder, self._others, orderly=self._ending.is_set())

    def expect_end(self) -> None:
        """Note that ranks end from now on because they were told so, or are of no use any more."""
        self._ending.set()

    def disband(self) -> None:
        """Kill the other ranks: one of them, or this one, no longer does what all do."""
        self.expect_end()
        for process in self._others.values():
            process.kill()

    def watch(self) -> None:
        """End this process if another rank fails or is killed, unless an error has told already."""
        for number, process in self._others.items():
            name = f"rank {number}"
            threading.Thread(target=self._await_end, args=(name, process), name=name, daemon=True).start()

    def _await_end(self, name: str, process: subprocess.Popen[bytes]) -> None:
        code = process.wait()
        if code and not self._ending.wait(_LONELY_S):
            print(self.failure() or f"{name} ended with exit code {code}", file=sys.stderr, flush=True)
            os._exit(1)


@contextmanager
def team_of(cases: Sequence[Case], seed: int, follow: Follow) -> Iterator[Team | None]:
    """Start the other ranks of cases of one shape, and yield all of them; None for a shape of one device.

    Raise CaseEnded if there are not as many GPUs, and RuntimeError with what another rank has raised.
    """
    count, device = cases[0].shape.ranks, cases[0].shape.device
    if not count:
        yield None
        return
    if device == "cuda" and (here := torch.cuda.device_count()) < count:
        raise CaseEnded("unavailable", f"needs {count} GPUs, and this process sees {here}")
    with ExitStack() as stack:
        if device == "cuda":
            _lock(usable_gpus()[1:count], stack)
        folder = stack.enter_context(scratch_folder())
        requests = [
            RankRequest(tuple(cases), seed, Rank(number, count), folder, follow) for number in range(1, count)
        ]
        others: _Others = {request.rank.number: _started(request) for request in requests}
        team = Team(Rank(0, count), others, folder)
        try:
            _await_ready(folder, others)
            join(team.first, device, folder)
            team.watch()
            yield team
        except PoisonedError:
            team.disband()
            raise
        except Exception as error:
            team.expect_end()
            if reason := team.failure():
                raise RuntimeError(reason) from error
            raise
        finally:
            team.expect_end()
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


def threads_of_rank(count: int) -> int:
    """Return how many threads of torch each of so many ranks has, which share the processors."""
    return max(1, torch.get_num_threads() // count)


def _started(request: RankRequest) -> subprocess.Popen[bytes]:
    rank = request.rank
    numbers = {"RANK": rank.number, "LOCAL_RANK": rank.number}
    numbers |= {"OMP_NUM_THREADS": threads_of_rank(rank.count)}
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


def _failure(folder: Path, others: _Others, *, orderly: bool) -> str:
    deadline = time.monotonic() + _FAILS_LATER_S
    while time.monotonic() < deadline and all(process.poll() is None for process in others.values()):
        time.sleep(0.01)
    for number, process in others.items():
        path = folder / f"failed{number}"
        if path.exists():
            return f"rank {number}: {path.read_text()}"
        if (code := process.poll()) or (code == 0 and not orderly):
            return f"rank {number} ended with exit code {process.returncode}"
    return ""
