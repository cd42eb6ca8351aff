"""Ranks that are forked as workers are, for tests in whose own process the first rank is.

Workers that are killed with all that they have started keep to ranks that are started.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import threading
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from lightning_bench.measure.ranks import team
from tests.support.forked_workers import _Context, _Subprocess, fork_workers


def fork_ranks() -> Callable[[], None]:
    """Fork each rank that this process starts, until what is returned is called."""
    undo, real = fork_workers(), team.subprocess
    team.subprocess = _Subprocess(_ForkedRank)  # type: ignore[assignment]

    def undo_both() -> None:
        team.subprocess = real
        undo()

    return undo_both


class _ForkedRank:
    """`python -c CODE PATH` that reads its standard input, in a forked process."""

    def __init__(self, command: list[str], *, stdin: int, env: Mapping[str, str]) -> None:
        theirs, ours = multiprocessing.Pipe(duplex=False)
        self._process = _Context().Process(target=_rank, args=(command[-2], command[-1], dict(env), theirs))
        self._process.start()
        theirs.close()
        self.stdin: BinaryIO = os.fdopen(os.dup(ours.fileno()), "wb")
        ours.close()
        self.kill = self._process.kill
        self.returncode: int | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._await_end, daemon=True).start()

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if not self._ended.wait(timeout):
            raise subprocess.TimeoutExpired("python", timeout or 0.0)
        assert self.returncode is not None
        return self.returncode

    def _await_end(self) -> None:
        self._process.join()  # by one thread only: it reads the exit code, which comes once
        self.returncode = self._process.exitcode
        self._ended.set()


def _rank(code: str, path: str, environment: dict[str, str], stdin: Any) -> None:
    import sys

    import torch

    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    os.dup2(stdin.fileno(), 0)
    stdin.close()
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.argv = ["-c", json.dumps(json.loads(path))]
    exec(code, {"__name__": "__main__"})
