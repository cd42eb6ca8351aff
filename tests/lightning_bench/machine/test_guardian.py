"""Nothing that foreign code starts outlives its process: children, grandchildren, daemons, output."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lightning_bench.machine.guardian import KEPT_OUTPUT, tail
from lightning_bench.machine.scratch import scratch_folder
from tests.support.patience import PATIENCE_S
from tests.support.workspace import until

START = """
import os, signal, subprocess, sys, time
from pathlib import Path
from lightning_bench.machine.guardian import guarded
guarded(Path({log!r}), {parent})
def note(name, text):
    Path({folder!r}, name + "~").write_text(str(text))
    Path({folder!r}, name + "~").rename(Path({folder!r}, name))
"""
# A child in a session of its own, and a daemon: its parent has ended.
FAMILY = """
apart = subprocess.Popen(["sleep", "3600"], start_new_session=True)
daemon = subprocess.run(["sh", "-c", "setsid sleep 3600 >/dev/null 2>&1 & echo $!"], capture_output=True)
note("pids", f"{os.getpid()} {apart.pid} {int(daemon.stdout)}")
"""


class Guarded:
    """Starts code in a guarded process."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "log"

    def start(self, code: str) -> subprocess.Popen[bytes]:
        start = START.format(log=str(self.log), parent=os.getpid(), folder=str(self.folder))
        return subprocess.Popen([sys.executable, "-c", start + code])

    def pids(self) -> list[int]:
        noted = self.folder / "pids"
        until(noted.exists, "no pids were noted")
        return [int(pid) for pid in noted.read_text().split()]


@pytest.fixture
def process(tmp_path: Path) -> Guarded:
    return Guarded(tmp_path)


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("os._exit(3)", 3),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("os.abort()", -signal.SIGABRT),
    ],
)
def test_descendants_end_with_the_process_and_its_end_is_passed_on(
    process: Guarded, wait_gone: Callable[[int], None], end: str, code: int
) -> None:
    assert process.start(FAMILY + end).wait(PATIENCE_S) == code
    for pid in process.pids():
        wait_gone(pid)


def test_sigterm_ends_all(process: Guarded, wait_gone: Callable[[int], None]) -> None:
    running = process.start(FAMILY + "while True: pass")
    pids = process.pids()
    running.terminate()
    assert running.wait(PATIENCE_S) == -signal.SIGKILL
    for pid in pids:
        wait_gone(pid)


def test_death_of_the_parent_ends_all(process: Guarded, wait_gone: Callable[[int], None]) -> None:
    start = START.format(log=str(process.log), parent="os.getppid()", folder=str(process.folder))
    code = start + FAMILY + "time.sleep(3600)"
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])",
            code,
        ]
    )
    pids = process.pids()
    parent.kill()
    parent.wait(PATIENCE_S)
    for pid in pids:
        wait_gone(pid)


def test_only_the_end_of_the_output_is_kept(process: Guarded) -> None:
    code = "block = b'x' * 2**20\nfor _ in range(16): os.write(1, block)\nos.write(2, b'\\nlast\\n')\n"
    assert process.start(code + "os._exit(0)").wait(PATIENCE_S) == 0
    assert process.log.stat().st_size == KEPT_OUTPUT
    assert tail(process.log, 1) == "last"


def test_no_log_has_no_end(tmp_path: Path) -> None:
    assert tail(tmp_path / "none", 1) == ""


def test_scratch_folders_of_dead_processes_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    dead = subprocess.Popen(["true"])
    dead.wait()
    left = [tmp_path / f"lbench-tmp-{pid}-x" for pid in (dead.pid, os.getpid())]
    left += [tmp_path / "lbench-tmp-mine", tmp_path / "other"]
    for folder in left:
        folder.mkdir()
        (folder / "file").touch()
    with scratch_folder() as folder:
        assert sorted(tmp_path.iterdir()) == sorted([*left[1:], folder])
    assert not folder.exists()
