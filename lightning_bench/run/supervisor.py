"""The parent's side of a worker: start it, watch it, kill it, report how it ended."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from lightning_bench.case import Device
from lightning_bench.errors import LbenchError
from lightning_bench.machine.guardian import tail
from lightning_bench.machine.place import Place
from lightning_bench.machine.scratch import scratch_folder
from lightning_bench.measure.job import Job, Outcome
from lightning_bench.record import Status
from lightning_bench.run.leak_tracker import start_tracker
from lightning_bench.run.sanitizer import Sanitizer
from lightning_bench.run.worker import worker_main

_START_LIMIT_S = 300.0
_STOP_LIMIT_S = 30.0
# A sanitizer works through what it has noted when its worker ends.
_FINISH_LIMIT_S = 120.0
# The kernel counts a wait in milliseconds, in 31 bits; a time limit may be longer.
_LONGEST_POLL_S = 86400.0
# Inputs and oracle belong to no case; a shape gets this much for them, or the time limit if that is more.
_SHARED_LIMIT_S = 600.0
# Several threads may start workers: the program's main module is hidden from one at a time.
_STARTING = threading.Lock()


@dataclass(frozen=True)
class Ending:
    """How a worker was lost: the status of the case that caused it, and why."""

    status: Status
    reason: str


class AbandonedError(Exception):
    """Another thread has killed the worker for good: what it measured is of no interest any more."""


class Supervisor:
    """Keeps one healthy worker, starts it when needed, and books its time by phase in `seconds`."""

    def __init__(
        self,
        device: Device,
        memory_limit_gib: float | None,
        import_path: Sequence[Path] = (),
        sanitizer: Sanitizer | None = None,
        place: Place | None = None,
    ) -> None:
        self._device: Device = device
        self._place = place
        self._abandoned = False
        self._import_path = [str(folder) for folder in import_path]
        self._memory_limit_gib = memory_limit_gib
        self._context = multiprocessing.get_context("spawn")
        self._process: Any = None
        self._connection: Any = None
        self._jobs = 0
        self._ready = False
        self._scratch = contextlib.ExitStack()
        folder = self._scratch.enter_context(scratch_folder())
        self._log, self._report = folder / "worker.log", folder / "sanitizer.log"
        self._under = [] if sanitizer is None else sanitizer.command(self._report)
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @property
    def fresh(self) -> bool:
        """Whether the next job will be the first of its worker."""
        return self._jobs == 0 or not self._alive

    @property
    def _alive(self) -> bool:
        return self._process is not None and bool(self._process.is_alive())

    def run(
        self, job: Job, on_outcome: Callable[[Outcome], None], on_enter: Callable[[str, str], None]
    ) -> Ending | None:
        """Have a worker measure the job. Return None if it finished, else how the worker was lost.

        Raise LbenchError if no worker starts, AbandonedError once it is abandoned.
        """
        if not self._alive:
            self.prepare()
        if not self._ready:
            on_enter("", "start")
            self._await_ready()
        self._jobs += 1
        oom_kills = _oom_kills()
        try:
            self._connection.send(job)
            ending = self._watch(job, on_outcome, on_enter)
        except (EOFError, ConnectionError):
            self._refuse_abandoned()
            ending = self._exit_report(oom_kills)
        if ending is not None:
            if self._under and ending.status != "timeout":
                self._process.join(_FINISH_LIMIT_S)
            self.stop()
        return ending

    def sanitizer_report(self) -> str:
        """End the worker in order and return what the sanitizer around it has written."""
        if self._alive:
            with contextlib.suppress(OSError):
                self._connection.send(None)
            self._process.join(_FINISH_LIMIT_S)
            self.stop()
        return self._report.read_text(errors="replace") if self._report.exists() else ""

    def stop(self) -> None:
        """Kill the worker and all that it has started, if there is one."""
        if self._process is not None:
            self._process.terminate()  # its guardian kills the rest
            self._process.join(_STOP_LIMIT_S)
            self._process.kill()
            self._process.join()
            self._connection.close()
            self._process = None

    def abandon(self) -> None:
        """Kill the worker for good, from another thread than the one that is in `run`."""
        self._abandoned = True
        process = self._process
        if process is not None and process.pid is not None:
            process.terminate()

    def close(self) -> None:
        """Stop and remove the log."""
        self.stop()
        self._scratch.close()

    def prepare(self) -> None:
        """Start the worker without waiting for it, so that several can start at once."""
        self.stop()
        self._jobs, self._ready = 0, False
        for file in (self._log, self._report):
            file.unlink(missing_ok=True)
        ours, theirs = self._context.Pipe()
        self._process = self._context.Process(
            target=worker_main,
            args=(
                *(theirs, self._device, self._memory_limit_gib),
                *(str(self._log), self._import_path, self._under, self._place),
            ),
            daemon=True,
        )
        with _interrupts_held(), _STARTING, _main_module_hidden():
            self._process.start()
            theirs.close()
            self._connection = ours
        self._refuse_abandoned()

    def _await_ready(self) -> None:
        begin = time.monotonic()
        try:
            if not self._connection.poll(_START_LIMIT_S):
                raise LbenchError(f"the worker process did not start within {_START_LIMIT_S:.0f} s")
            self._connection.recv()
            self._ready = True
        except EOFError:
            self._refuse_abandoned()
            self._process.join()
            self.stop()
            last = "\n".join(filter(None, [tail(self._log, 20), tail(self._report, 20)]))
            raise LbenchError(f"the worker process could not start:\n{last}") from None
        finally:
            self.seconds["start"] += time.monotonic() - begin

    def _watch(
        self, job: Job, on_outcome: Callable[[Outcome], None], on_enter: Callable[[str, str], None]
    ) -> Ending | None:
        charged: defaultdict[str, float] = defaultdict(float)
        owner, phase, since = "", "other", time.monotonic()

        def book() -> None:
            nonlocal since
            now = time.monotonic()
            charged[owner] += now - since
            self.seconds[phase] += now - since
            since = now

        while True:
            limit = job.limits.time_limit_s if owner else max(job.limits.time_limit_s, _SHARED_LIMIT_S)
            left = limit - charged[owner] - (time.monotonic() - since)
            if left <= 0:
                book()
                return Ending("timeout", f"not done within {limit:g} s; it was killed in phase {phase!r}")
            if not self._connection.poll(min(left, _LONGEST_POLL_S)):
                continue
            message = self._connection.recv()
            book()
            match message:
                case ("enter", owner, phase):
                    on_enter(owner, phase)
                case ("outcome", outcome):
                    on_outcome(outcome)
                case ("done", reusable):
                    if not (reusable or self._under):  # what runs under a sanitizer still has to report
                        self.stop()
                    return None
                case ("poisoned", why):
                    return Ending("crashed", why)

    def _refuse_abandoned(self) -> None:
        if self._abandoned:
            raise AbandonedError

    def _exit_report(self, oom_kills: int) -> Ending:
        with _STARTING:  # starting another worker collects children, and would know the code instead
            self._process.join()
            code = self._process.exitcode
        line = tail(self._log, 1)
        output = f"; its last output: {line}" if line else ""
        if code is None or code >= 0:
            return Ending("crashed", f"the worker process ended with exit code {code}{output}")
        name = str(-code)
        with contextlib.suppress(ValueError):
            name = signal.Signals(-code).name
        if -code == signal.SIGKILL and _oom_kills() > oom_kills:
            return Ending("oom", f"the kernel killed the worker for lack of memory{output}")
        return Ending("crashed", f"the worker process died of {name}{output}")


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Defer Ctrl-C to the end of the block: no worker is left half started, and a new worker never gets it.

    A spawned process inherits the signals that are blocked here; else it would print a traceback.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    start_tracker()
    held: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _: held.append(number))
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        signal.signal(signal.SIGINT, handler)
    if held and callable(handler):
        handler(held[0], None)


@contextlib.contextmanager
def _main_module_hidden() -> Iterator[None]:
    """Have a process that is spawned in the block not run this program's main module.

    multiprocessing would, and a script that measures would start to measure again in each worker.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _oom_kills() -> int:
    """Return how often the kernel has killed for lack of memory since boot; 0 if it does not report it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0
