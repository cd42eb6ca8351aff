"""A workspace for sweeps: a folder with suites and providers from files, and the command line run in it."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from lightning_bench.record import ResultFile, read_records
from lightning_bench.run.executor import Executor
from lightning_bench.run.plan import Plan
from lightning_bench.run.sanitizer import Sanitizer
from lightning_bench.run.sweep import Summary, Watcher, run_sweep
from lightning_bench.suite import load_suite
from tests.support.forked_workers import run_forked
from tests.support.patience import PATIENCE_S

ZOO = Path(__file__).with_name("zoo.py")
NOT_INHERITED = (
    "COLUMNS",
    "LINES",
    "FORCE_COLOR",
    "NO_COLOR",
    "TTY_COMPATIBLE",
    "TTY_INTERACTIVE",
    "LBENCH_TRACEBACK",
    "TRITON_INTERPRET",
)
"""What `lbench` is not told by the environment of the tests, where one that uses kernels leaves the last."""
LIMITS = {
    "time_limit_s": 30.0,
    "sample_limit_s": 0.05,
    "min_samples": 6,
    "max_samples": 60,
    "ci_percent": 50.0,
}
AXES = {"direction": "fwd", "dtype": "fp32", "batch": 1, "heads": 2, "seq_len": 64, "head_dim": 16}


class Workspace:
    """A separate folder for one story."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.zoo = Path(shutil.copy(ZOO, folder))
        self.out = folder / "out.csv"

    def suite(
        self,
        names: Sequence[str],
        *,
        name: str = "story",
        limits: dict[str, Any] | None = None,
        **axes: Any,
    ) -> Path:
        """Write a suite of providers of the zoo (those with a capital) and of the registry."""
        specs = [f"zoo.py:{each}" if each[0].isupper() else each for each in names]
        table = AXES | {"providers": specs} | axes
        lines = ['title = "Story"', 'description = "For tests."', 'device = "cpu"', "[limits]"]
        lines += [f"{key} = {json.dumps(value)}" for key, value in (LIMITS | (limits or {})).items()]
        lines += ["[[group]]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
        path = self.folder / f"{name}.toml"
        path.write_text("\n".join(lines) + "\n")
        return path

    def sweep(
        self,
        suite: Path,
        metric: Any = "check",
        *,
        retry: bool = False,
        watcher: Watcher | None = None,
        sanitizer: Sanitizer | None = None,
        executor: Executor | None = None,
    ) -> Summary:
        """Run a suite in this process, its workers in theirs."""
        from lightning_bench.machine import describe_machine
        from lightning_bench.run.progress import QuietWatcher

        plan = Plan.of(load_suite(suite), metric, describe_machine("cpu"))
        plan = replace(plan, inputs=("normal",), sanitizer=sanitizer)
        with ResultFile(self.out) as file:
            return run_sweep(plan, file, watcher or QuietWatcher(), retry=retry, executor=executor)

    def start(
        self, *arguments: str | Path, code: str = "", terminal: bool = False, **streams: Any
    ) -> subprocess.Popen[str]:
        """Start `lbench` with these arguments in its own session; `code` runs before it in its process."""
        program = ["-m", "lightning_bench"]
        if code:
            program = ["-c", f"{code}\nfrom lightning_bench.cli import main\nmain()"]
        environment = {k: v for k, v in os.environ.items() if k not in NOT_INHERITED}
        if terminal:
            environment["TERM"] = "xterm-256color"
        return subprocess.Popen(
            [sys.executable, *program, *map(str, arguments)],
            cwd=self.folder,
            env=environment,
            text=True,
            start_new_session=True,
            **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams,
        )

    def run(self, *arguments: str | Path, code: str = "") -> subprocess.CompletedProcess[str]:
        """Run `lbench` to its end, in a forked process; `code` runs before it."""
        told = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
        return run_forked(*arguments, folder=self.folder, environment=told, code=code)

    def call(self, *arguments: str | Path) -> Ran:
        """Run `lbench` with these arguments in this process, as one that knows no file, and in the folder."""
        from lightning_bench.cli import main
        from lightning_bench.providers.lookup import forget_declared

        forget_declared()
        streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2)]
        with pytest.MonkeyPatch.context() as patch:
            for name in NOT_INHERITED:
                patch.delenv(name, raising=False)
            patch.chdir(self.folder)
            patch.setattr(sys, "argv", ["lbench", *map(str, arguments)])
            patch.setattr(sys, "stdout", streams[0])
            patch.setattr(sys, "stderr", streams[1])
            with pytest.raises(SystemExit) as ended:
                main()
        out, err = (stream.buffer.getvalue().decode() for stream in streams)  # type: ignore[attr-defined]
        code = ended.value.code
        return Ran(code if isinstance(code, int) else 0, out, err)

    def ids(self, status: str | None = None) -> list[str]:
        """Return `provider seq_len` of each row of the file, or of those with a status."""
        rows = read_records(self.out)
        return [f"{row.provider} {row.seq_len}" for row in rows if status in (None, row.status)]

    def appears(self, name: str) -> Path:
        """Wait for a file in the folder."""
        path = self.folder / name
        until(path.exists, f"{path} never appeared")
        return path


def until(condition: Callable[[], bool], otherwise: str) -> None:
    """Wait for a condition, though not for ever."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, otherwise
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    """Whether a process has ended, even if its parent has not collected it yet."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


class Ran(NamedTuple):
    """How a call of `lbench` ended and what it wrote."""

    code: int
    out: str
    err: str
