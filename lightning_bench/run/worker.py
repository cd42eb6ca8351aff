"""The worker process: measures jobs until its parent hangs up.

Messages to the parent are tuples whose first item names them:
`("ready",)`, `("enter", case_id, phase)`, `("outcome", Outcome)`, `("done", reusable)`,
`("poisoned", why)`.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import traceback
from multiprocessing.connection import Connection
from pathlib import Path

from lightning_bench.case import Device
from lightning_bench.machine.guardian import be_subreaper, flush, guarded
from lightning_bench.measure.job import Job, Outcome

_SPARE_FRACTION = 0.9


def worker_main(
    connection: Connection,
    device: Device,
    memory_limit_gib: float | None,
    log: str,
    import_path: str | None = None,
) -> None:
    """Measure the jobs that come in; the entry point of the process, which becomes the worker's guardian.

    Everything that a library prints goes to the file `log`. The folder `import_path` precedes all others, so
    that the kernels of another tree are imported.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    assert parent.pid is not None
    guarded(Path(log), parent.pid)
    be_subreaper()  # so that a case's daemons are seen
    code = 1
    try:
        if import_path is not None:
            sys.path.insert(0, import_path)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
        _work(connection, device, memory_limit_gib)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        flush()
        os._exit(code)  # tearing down a lost CUDA context can hang


def _work(connection: Connection, device: Device, memory_limit_gib: float | None) -> None:
    """Measure jobs until the parent hangs up or one spoils the process."""
    from lightning_bench.measure.bench import run_job
    from lightning_bench.measure.session import PoisonedError, Session

    _limit_memory(device, memory_limit_gib)
    session = Session(device)
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

        def emit(outcome: Outcome) -> None:
            connection.send(("outcome", outcome))

        try:
            reusable = run_job(session, job, enter, emit)
        except PoisonedError as error:
            connection.send(("poisoned", str(error)))
            return
        connection.send(("done", reusable))


def _limit_memory(device: Device, limit_gib: float | None) -> None:
    """Cap what a case may allocate, so that a greedy case fails with an error and affects no other.

    On a CPU the default is nine tenths of what is free now.
    """
    if device == "cpu":
        import psutil

        free = int(psutil.virtual_memory().available * _SPARE_FRACTION)
        limit = free if limit_gib is None else int(limit_gib * 2**30)
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    elif limit_gib is not None:
        import torch

        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit_gib * 2**30 / total))
