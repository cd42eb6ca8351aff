"""The worker process: measures jobs until its parent hangs up.

Messages to the parent are tuples whose first item names them:
`("ready",)`, `("enter", case_id, phase)`, `("outcome", Outcome)`, `("done", reusable)`,
`("poisoned", why)`.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import resource
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

from lightning_bench.case import TIMED, Device
from lightning_bench.machine.guardian import be_subreaper, flush, guarded
from lightning_bench.machine.interpreter import interprets_kernels
from lightning_bench.machine.place import Place
from lightning_bench.measure.job import Job, Outcome
from lightning_bench.record import WORKED
from lightning_bench.run.sanitizer import ENVIRONMENT

SPARE_FRACTION = 0.9
"""The share of the free memory of a CPU that workers may allocate by default."""

_INTERPRETED = "TRITON_INTERPRET is set: kernels of Triton run interpreted, and times say nothing of them"
_START = (
    "import json, sys; request = json.loads(sys.argv.pop()); sys.path[:] = request.pop('path'); "
    "from lightning_bench.run.worker import resume; resume(**request)"
)


def worker_main(
    connection: Connection,
    device: Device,
    memory_limit_gib: float | None,
    log: str,
    import_path: Sequence[str] = (),
    under: Sequence[str] = (),
    place: Place | None = None,
) -> None:
    """Measure the jobs that come in; the entry point of the process, which becomes the worker's guardian.

    Everything that a library prints goes to the file `log`. The folders of `import_path` precede all
    others, so that the kernels of another tree are imported. `under` are the words that go before the command
    line of a worker that another program runs. `place` is all that the worker may see of the devices here.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    assert parent.pid is not None
    guarded(Path(log), parent.pid)
    code = 1
    try:
        if place is not None:
            place.enter()
        sys.path[:0] = import_path
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
        if under:
            _become(under, connection, device, memory_limit_gib)
        _work(connection, device, memory_limit_gib)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        flush()
        os._exit(code)  # tearing down a lost CUDA context can hang


def _become(
    under: Sequence[str], connection: Connection, device: Device, memory_limit_gib: float | None
) -> None:
    """Replace this process by the program that `under` names, which runs a worker on the same connection."""
    os.set_inheritable(connection.fileno(), True)
    request = {
        "path": sys.path,
        "descriptor": connection.fileno(),
        "device": device,
        "memory_limit_gib": memory_limit_gib,
    }
    os.execve(under[0], [*under, sys.executable, "-c", _START, json.dumps(request)], os.environ | ENVIRONMENT)


def resume(descriptor: int, device: Device, memory_limit_gib: float | None) -> None:
    """Measure the jobs that come in on an inherited connection; the entry point under another program.

    It ends as every Python does: the program may have more to say when CUDA is torn down.
    """
    os.set_inheritable(descriptor, False)
    _work(Connection(descriptor), device, memory_limit_gib)


def _work(connection: Connection, device: Device, memory_limit_gib: float | None) -> None:
    """Measure jobs until the parent hangs up or one spoils the process."""
    from lightning_bench.measure.bench import run_job
    from lightning_bench.measure.guard import witness
    from lightning_bench.measure.session import PoisonedError, Session

    be_subreaper()  # so that a case's daemons are seen
    gc.freeze()  # torch's modules stay: collections, of which each case has several, need not search them
    _limit_memory(device, memory_limit_gib)
    replaced = witness()
    session = Session(device)
    interpreted = interprets_kernels()
    connection.send(("ready",))
    while True:
        try:
            job: Job | None = connection.recv()
        except EOFError:
            return
        if job is None:
            return

        def enter(case_id: str, phase: str) -> None:
            connection.send(("enter", case_id, phase))

        blind = ""

        def emit(outcome: Outcome, timed: bool = job.metric in TIMED | {"energy"}) -> None:
            nonlocal blind
            # What the judge itself sees, it has put back: this is what it was kept from seeing.
            blind = blind or replaced() or ""
            if blind and outcome.status in WORKED:
                reason = f"{blind}, or another case of its worker does, and keeps the judge from seeing it"
                outcome = Outcome(outcome.case, "wrong", reason)
            elif interpreted and timed and outcome.status in WORKED:
                reason = "; ".join(filter(None, [_INTERPRETED, outcome.reason]))
                outcome = replace(outcome, status="unstable", reason=reason)
            connection.send(("outcome", outcome.sealed))

        try:
            reusable = run_job(session, job, enter, emit)
        except PoisonedError as error:
            connection.send(("poisoned", str(error)))
            return
        connection.send(("done", reusable and not blind))


def _limit_memory(device: Device, limit_gib: float | None) -> None:
    """Cap what a case may allocate, so that a greedy case fails with an error and affects no other.

    On a CPU the default is nine tenths of what is free now.
    """
    if device == "cpu":
        import psutil

        free = int(psutil.virtual_memory().available * SPARE_FRACTION)
        limit = free if limit_gib is None else int(limit_gib * 2**30)
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    elif limit_gib is not None:
        import torch

        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit_gib * 2**30 / total))
