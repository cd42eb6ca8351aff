"""A process that runs foreign code, and its guardian: nothing that the code starts outlives it.

`guarded` forks. The child goes on; the first process becomes its guardian. When the child ends, or the
parent, or when the guardian gets SIGTERM, it kills every descendant, also those in sessions of their own,
keeps the end of what they printed, and ends as the child did.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
import threading
from pathlib import Path

import psutil

KEPT_OUTPUT = 2**20
"""Bytes of output that are kept, from its end."""

_parent_of_guardians: int | None = None

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_AWAITED = {signal.SIGCHLD, signal.SIGTERM}
_PATIENCE_S = 5.0


def guarded(log: Path, parent: int) -> None:
    """Return in a child of this process, which must end in `os._exit`; its output goes to `log` at its end.

    Called before anything starts a thread. `parent` is the process whose death ends everything.
    """
    global _parent_of_guardians
    _parent_of_guardians = parent
    ours, theirs = os.pipe()
    signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)
    _die_with(parent, signal.SIGTERM)
    with contextlib.suppress(OSError):  # it leads a session already
        os.setsid()
    be_subreaper()
    guardian = os.getpid()
    child = os.fork()
    if child:
        os.close(theirs)
        _guard(child, ours, log)
    os.close(ours)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _AWAITED)
    _die_with(guardian, signal.SIGKILL)
    os.dup2(theirs, 1)
    os.dup2(theirs, 2)
    os.close(theirs)


def die_with_parent() -> None:
    """Ask Linux to kill this process when its parent dies, however that happens."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def be_subreaper() -> None:
    """Ask Linux to make this process the parent of its descendants whose parent has died."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def guarded_siblings() -> set[int]:
    """Return the ids of all that runs under guardians of the same parent, of which this process has one."""
    found: set[int] = set()
    if _parent_of_guardians is not None:
        with contextlib.suppress(psutil.Error):
            for guardian in psutil.Process(_parent_of_guardians).children():
                found |= {process.pid for process in guardian.children(recursive=True)}
    return found


def tail(log: Path, lines: int) -> str:
    """Return the last lines of a log that are not blank; "" if it does not exist."""
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - KEPT_OUTPUT))
        text = file.read(KEPT_OUTPUT).decode(errors="replace")
        return "\n".join([line.strip() for line in text.splitlines() if line.strip()][-lines:])
    return ""


def _prctl(option: int, value: int) -> None:
    with contextlib.suppress(OSError, AttributeError):  # not Linux: pipes that close still end an idle child
        ctypes.CDLL(None, use_errno=True).prctl(option, value)


def _die_with(parent: int, number: int) -> None:
    _prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it died before it could be asked for
        os._exit(1)


def _guard(child: int, output: int, log: Path) -> None:
    """Wait for the child or for SIGTERM, kill what is left, and end this process as the child ended."""
    with contextlib.suppress(ValueError, OSError):  # a connection must close with the child, not with us
        os.closerange(3, output)
        os.closerange(output + 1, os.sysconf("SC_OPEN_MAX"))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # a signal that is ignored cannot be waited for
    pump = _Pump(output)
    pump.start()
    status = None
    while status is None:
        if signal.sigwait(_AWAITED) == signal.SIGTERM:
            status = int(signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while status is None and (ended := os.waitpid(-1, os.WNOHANG))[0]:
                status = ended[1] if ended[0] == child else None
    _kill_descendants()
    pump.join(_PATIENCE_S)
    with contextlib.suppress(OSError):  # a full disk
        log.write_bytes(bytes(pump.kept[-KEPT_OUTPUT:]))
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        os.kill(os.getpid(), number)
    os._exit(os.WEXITSTATUS(status))


def _kill_descendants() -> None:
    """Kill until there is no child left: those of a child that dies become ours."""
    me = psutil.Process()
    while True:
        for process in me.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


class _Pump(threading.Thread):
    """Reads output to its end and keeps the last of it."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(daemon=True)
        self.kept = bytearray()
        self._descriptor = descriptor

    def run(self) -> None:
        """Read until every process that can write is gone."""
        while block := os.read(self._descriptor, 2**16):
            self.kept += block
            if len(self.kept) > 2 * KEPT_OUTPUT:
                del self.kept[:-KEPT_OUTPUT]


def flush() -> None:
    """Write what Python still buffers; `os._exit` does not."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
