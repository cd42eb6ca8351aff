"""Python threads and child processes that a case has started and that still run after it.

Threads that `_thread` starts without `threading`, and those of C++ libraries, are not seen.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import psutil

# What uses more than this share of a core while others are measured makes them slow.
_BUSY_SHARE = 0.05
_BUSY_SECONDS = 0.02


@dataclass
class Leftover:
    """A thread or a process, who started it, and its CPU seconds when it was first seen."""

    what: threading.Thread | psutil.Process
    owner: str
    cpu_s: float
    since: float

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        if isinstance(self.what, threading.Thread):
            return self.what.is_alive()
        return _runs(self.what)

    @property
    def busy(self) -> bool:
        """Whether it has used so much CPU time since it was first seen that others are slowed down."""
        used, passed = _cpu_s(self.what) - self.cpu_s, time.monotonic() - self.since
        return used > _BUSY_SECONDS and used > _BUSY_SHARE * passed

    def __str__(self) -> str:
        if isinstance(self.what, threading.Thread):
            return f"it left a thread running ({self.what.name})"
        with contextlib.suppress(psutil.Error):
            return f"it left a child process running ({self.what.name()})"
        return "it left a child process running"


class Leftovers:
    """Notes what each owner leaves; what runs at the start belongs to nobody."""

    def __init__(self) -> None:
        self._ours: set[object] = {*running_threads(), *_children()}
        self.found: list[Leftover] = []

    def excuse(self) -> None:
        """Take what runs and was not yet noted for nobody's."""
        self._ours |= {*running_threads(), *_children()}

    def note(self, owner: str, *, children: bool) -> None:
        """Attribute to `owner` what has appeared; a look at child processes takes milliseconds."""
        running: list[threading.Thread | psutil.Process] = [*running_threads()]
        if children:
            running += _children()
        for what in running:
            if what not in self._ours:
                self._ours.add(what)
                self.found.append(Leftover(what, owner, _cpu_s(what), time.monotonic()))


def running_threads() -> list[threading.Thread]:
    """Return the running threads, but those of C++ that have run Python once and torch.compile's timer."""
    dummy = threading._DummyThread  # noqa: SLF001 - no public name
    return [each for each in threading.enumerate() if not isinstance(each, dummy) and not _waits(each)]


def left_by_call(before: Collection[threading.Thread]) -> str | None:
    """Return which threads run that did not run `before` a call, or None."""
    left = [thread.name for thread in running_threads() if thread not in before]
    return f"its call leaves threads running: {', '.join(left)}" if left else None


def _children() -> list[psutil.Process]:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)  # in microseconds: whether there is any
    except ChildProcessError:
        return []
    return [each for each in psutil.Process().children(recursive=True) if _runs(each) and not _compiles(each)]


def _compiles(process: psutil.Process) -> bool:
    """Whether it is one of those that torch.compile keeps to compile in, whoever was the first to need it."""
    with contextlib.suppress(psutil.Error):
        return any("torch/_inductor/compile_worker" in word for word in process.cmdline())
    return False


def _waits(thread: threading.Thread) -> bool:
    """Whether it is torch.compile's, which sleeps until the processes that compile have long been idle."""
    timers = sys.modules.get("torch._inductor.compile_worker.timer")
    target = getattr(thread, "_target", None)
    return type(getattr(target, "__self__", None)) is getattr(timers, "Timer", None)


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _cpu_s(what: threading.Thread | psutil.Process) -> float:
    if isinstance(what, threading.Thread):
        with contextlib.suppress(OSError, ValueError, IndexError):  # it has ended, or this is not Linux
            return int(Path(f"/proc/self/task/{what.native_id}/schedstat").read_text().split()[0]) / 1e9
        return 0.0
    with contextlib.suppress(psutil.Error):
        times = what.cpu_times()
        return float(times.user + times.system)
    return 0.0
