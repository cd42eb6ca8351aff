"""Processes that are forked from one with torch, not started: torch is imported once.

Workers, whole commands, and the processes that ask providers what they declare and that take profiles. They
have the environment and the folder of the test, and end with it as others do. The process that they are
forked from runs nothing else, so each is as fresh. What is left out is the start of Python: tests of how
processes start, of what they inherit and of how they are killed keep to those that are started.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Mapping
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.forkserver import _forkserver  # type: ignore[attr-defined]
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lightning_bench.profile.parent import profilers
from lightning_bench.providers.registry import probe
from tests.support.patience import PATIENCE_S

FORKED = "from tests.support.forked_workers import fork_workers\nfork_workers()"
"""What a new process runs to fork its workers: `Workspace.run(..., code=FORKED)`."""
FORKING_LBENCH = [sys.executable, "-c", f"{FORKED}\nfrom lightning_bench.cli import main\nmain()"]
"""`lbench` that forks its workers, from the server of a test that has the fixture `forked_workers`."""
_CAPTURE = "lightning_bench.profile.capture.child"
_SERVER = "LBENCH_TEST_FORK_SERVER"
# Not pandas: the memory of its pyarrow would count to what workers may allocate.
_PRELOADED = [
    f"lightning_bench.{module}"
    for module in ("measure.bench", "run.worker", "run.sweep", "comparison.judge", "cli.app")
]


class _Context(ForkServerContext):
    """Starts processes in the environment of the parent, which a fork server does not know."""

    def Process(self, target: Callable[..., None], args: tuple[Any, ...], **options: Any) -> Any:  # noqa: N802
        return ForkServerProcess(target=_as_spawned, args=(dict(os.environ), target, *args), **options)


def _as_spawned(environment: Mapping[str, str], target: Callable[..., None], *args: Any) -> None:
    os.environ.clear()
    os.environ.update(environment)
    # Workers end with their parent: here with the server, which ends with the tests.
    multiprocessing.process._parent_process._pid = os.getppid()  # type: ignore[attr-defined]
    if target is not _command:
        from lightning_bench.measure.device import peaks

        # Ceilings say little about rows and take half a second in every worker.
        peaks._COPY_BYTES["cpu"], peaks._MATMUL_SIZE["cpu"] = 2**16, 64
    target(*args)


def fork_workers() -> Callable[[], None]:
    """Fork each worker that this process starts, until what is returned is called.

    The processes that this one starts, if they call this, fork theirs from the same server.
    """
    real, context = multiprocessing.get_context, _Context()
    modules = probe.subprocess, profilers.subprocess
    if _SERVER in os.environ:
        _share(os.environ[_SERVER])
    else:
        context.set_forkserver_preload(_PRELOADED)
        _forkserver.ensure_running()
        key = getattr(_forkserver, "_forkserver_authkey", None) or b""  # of Python 3.14
        os.environ[_SERVER] = f"{_forkserver._forkserver_address} {key.hex()}".replace("\0", "@")
    multiprocessing.get_context = lambda method=None: context if method == "spawn" else real(method)
    probe.subprocess = _Subprocess(_ForkedProbe)  # type: ignore[assignment]
    profilers.subprocess = _Subprocess(_forked_capture)  # type: ignore[assignment]

    def undo() -> None:
        multiprocessing.get_context = real
        probe.subprocess, profilers.subprocess = modules

    return undo


def _share(server: str) -> None:
    """Take the server that an ancestor has started and keeps alive."""
    if _forkserver._forkserver_address is None:
        _forkserver._forkserver_alive_fd = os.open(os.devnull, os.O_WRONLY)
    address, _, key = server.replace("@", "\0").rpartition(" ")
    _forkserver._forkserver_address, _forkserver._forkserver_authkey = address, bytes.fromhex(key)
    _forkserver.ensure_running = resource_tracker.ensure_running


class _Subprocess:
    """Takes the place of the module `subprocess` where `Popen` forks."""

    def __init__(self, popen: Callable[..., Any]) -> None:
        self.Popen = popen

    def __getattr__(self, name: str) -> Any:
        return getattr(subprocess, name)


class _ForkedProbe:
    """`python -c CODE REQUEST`, in a forked process whose output is read."""

    def __init__(self, command: list[str], **_: Any) -> None:
        code, request = command[-2:]
        self._output, theirs = multiprocessing.Pipe(duplex=False)
        self._process = _Context().Process(target=_probe, args=(code, request, theirs))
        self._process.start()
        theirs.close()
        self.terminate, self.wait = self._process.terminate, self._process.join

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode  # type: ignore[no-any-return]

    def communicate(self, timeout: float | None = None) -> tuple[bytes, None]:
        """Read to the end of the output; `timeout` is that of each part."""
        parts = []
        while True:
            if not self._output.poll(timeout):
                raise subprocess.TimeoutExpired("python", timeout or 0.0)
            if not (part := os.read(self._output.fileno(), 2**16)):
                break
            parts.append(part)
        self.wait()
        return b"".join(parts), None


def _probe(code: str, request: str, output: Any) -> None:
    os.dup2(output.fileno(), 1)
    output.close()
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.argv = ["-c", json.dumps(json.loads(request) | {"parent": os.getppid()})]
    exec(code, {"__name__": "__main__"})


def _forked_capture(command: list[str], **given: Any) -> Any:
    """Fork a process that takes a profile, and start any other, such as Nsight Compute."""
    if command[1:3] != ["-m", _CAPTURE]:
        return subprocess.Popen(command, **given)
    return _ForkedCapture(command[3:], given["env"], given["stdout"])


class _ForkedCapture:
    """`python -m lightning_bench.profile.capture.child REQUEST ANSWER`, in a forked process."""

    def __init__(self, files: list[str], environment: Mapping[str, str] | None, log: Any) -> None:
        ready, theirs = multiprocessing.Pipe(duplex=False)
        output = Connection(os.dup(log.fileno()), readable=False)
        values = dict(os.environ if environment is None else environment)
        self._process = _Context().Process(target=_capture, args=(files, values, output, theirs))
        self._process.start()
        theirs.close()
        output.close()
        ready.poll(None)  # it leads a session, which can be killed
        ready.close()
        self.pid = self._process.pid

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(_CAPTURE, timeout or 0.0)
        return int(self._process.exitcode)


def _capture(files: list[str], environment: Mapping[str, str], output: Any, ready: Any) -> None:
    os.setsid()
    ready.close()
    os.environ.clear()
    os.environ.update(environment)
    for number in (1, 2):
        os.dup2(output.fileno(), number)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False, buffering=1)  # noqa: SIM115
    sys.argv = [_CAPTURE, *files]
    runpy.run_module(_CAPTURE, run_name="__main__", alter_sys=True)


def run_on_descriptors(code: str, request: dict[str, Any]) -> int:
    """Run `python -c CODE REQUEST` of a worker that has a descriptor of its parent, in a forked process.

    Return its exit code. Its output is that of this process.
    """
    fork_workers()
    shared = [
        Connection(os.dup(number), writable=number == request["descriptor"])
        for number in (request["descriptor"], 1, 2)
    ]
    process = _Context().Process(target=_on_descriptors, args=(code, request, *shared))
    process.start()
    for connection in shared:
        connection.close()
    os.close(request["descriptor"])
    process.join()
    return int(process.exitcode)


def _on_descriptors(code: str, request: dict[str, Any], connection: Any, out: Any, err: Any) -> None:
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    descriptor = os.dup(connection.fileno())
    for each in (connection, out, err):
        each.close()
    sys.argv = ["-c", json.dumps(request | {"descriptor": descriptor})]
    exec(code, {"__name__": "__main__"})


def run_forked(
    *arguments: str | Path, folder: Path, environment: Mapping[str, str] | None = None, code: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run `lbench` with these arguments to its end, in a forked process that forks its workers.

    `code` runs before it in its process.
    """
    undo = fork_workers()
    try:
        with TemporaryDirectory() as streams:
            given = [str(argument) for argument in arguments]
            values = dict(os.environ if environment is None else environment)
            process = _Context().Process(target=_command, args=(given, values, folder, Path(streams), code))
            process.start()
            process.join(PATIENCE_S)
            if process.exitcode is None:
                process.kill()
                raise subprocess.TimeoutExpired(given, PATIENCE_S)
            out, err = (Path(streams, name).read_text() for name in ("out", "err"))
    finally:
        undo()
    return subprocess.CompletedProcess(given, process.exitcode, out, err)


def _command(
    arguments: list[str], environment: Mapping[str, str], folder: Path, streams: Path, code: str
) -> None:
    from lightning_bench.cli import main

    shared = os.environ[_SERVER]
    os.environ.clear()
    os.environ.update({**environment, _SERVER: shared})
    os.setsid()
    os.chdir(folder)
    for name, number in (("out", 1), ("err", 2)):
        file = os.open(streams / name, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False, errors="backslashreplace", buffering=1)  # noqa: SIM115
    sys.argv = ["lbench", *arguments]
    fork_workers()
    exec(code, {"__name__": "__main__"})
    main()
