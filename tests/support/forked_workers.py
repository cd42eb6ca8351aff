"""Workers that are forked from a process with torch, not spawned: torch is imported once, not in each.

They have the environment and the folder of the test, and end with it as spawned ones do. The process that
they are forked from runs nothing else, so each is as fresh. What is left out is the start of Python: tests of
how workers start, or of what a process inherits, keep to those that are spawned.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any

FORKED = "from tests.support.forked_workers import fork_workers\nfork_workers()"
"""What a new process runs to fork its workers: `Workspace.run(..., code=FORKED)`."""


class _Context(ForkServerContext):
    """Starts processes in the environment of the parent, which a fork server does not know."""

    def Process(self, target: Callable[..., None], args: tuple[Any, ...], **options: Any) -> Any:  # noqa: N802
        return ForkServerProcess(target=_as_spawned, args=(dict(os.environ), target, *args), **options)


def _as_spawned(environment: Mapping[str, str], target: Callable[..., None], *args: Any) -> None:
    from lightning_bench.measure.device import peaks

    os.environ.clear()
    os.environ.update(environment)
    # Workers end with their parent: here with the server, which ends with the tests.
    multiprocessing.process._parent_process._pid = os.getppid()  # type: ignore[attr-defined]
    # Ceilings say little about rows and take half a second in every worker.
    peaks._COPY_BYTES["cpu"], peaks._MATMUL_SIZE["cpu"] = 2**16, 64
    target(*args)


def fork_workers() -> Callable[[], None]:
    """Fork each worker that this process starts, until what is returned is called."""
    real, context = multiprocessing.get_context, _Context()
    context.set_forkserver_preload(["lightning_bench.measure.bench", "lightning_bench.run.worker"])
    multiprocessing.get_context = lambda method=None: context if method == "spawn" else real(method)

    def undo() -> None:
        multiprocessing.get_context = real

    return undo
