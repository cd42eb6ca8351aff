"""Sweeps on a SLURM that is started here on loopback, with accounting and without; or skipped."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import pytest

from lightning_bench.record import read_records
from lightning_bench.run.slurm_executor import SlurmFleet
from tests.support.fake_gpu_host import FakeGpuTask, keys_measured_on
from tests.support.paths import ROOT
from tests.support.patience import PATIENCE_S
from tests.support.slurm_cluster import slurm_cluster, why_no_slurm
from tests.support.workspace import Workspace, until

submitit = pytest.importorskip("submitit")
pytestmark = pytest.mark.slow  # daemons, tasks and their workers start

LENGTHS = [32, 64, 96, 128, 160]


def found_slurm(folder: Path, *, accounting: bool) -> Iterator[None]:
    """Start SLURM, and have its commands and those of `lbench` find it."""
    if why := why_no_slurm(accounting=accounting):
        pytest.skip(why)
    with slurm_cluster(folder, accounting=accounting) as variables, pytest.MonkeyPatch.context() as patch:
        for name, value in (variables | {"PYTHONPATH": str(ROOT)}).items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def without_accounting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    yield from found_slurm(tmp_path_factory.mktemp("slurm"), accounting=False)


@pytest.fixture
def with_accounting(tmp_path: Path) -> Iterator[None]:
    yield from found_slurm(tmp_path, accounting=True)


def slurm(*words: str) -> list[str]:
    """Return the lines that a command of SLURM prints."""
    return subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S).stdout.splitlines()


def tasks() -> list[str]:
    return slurm("squeue", "-h", "--me", "-n", "lbench", "-o", "%i")


class Sweep:
    """A sweep on two tasks, one of which waits in a case until it is let go."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        suite = workspace.suite(["WaitsAt128"], seq_len=LENGTHS)
        self.command = ["check", suite, "--out", workspace.out, "--executor", "slurm", "--gpus", "cpu:2"]

    def begin(self) -> psutil.Process:
        """Start it; return the worker that waits, once the other task has measured all other cases."""
        self.process = self.workspace.start(*self.command)
        waiting = self.workspace.appears("waiting")
        worker = psutil.Process(int(waiting.read_text()))
        waiting.unlink()
        until(
            lambda: (
                self.workspace.out.read_bytes().count(b"\n") == len(LENGTHS)
                or self.process.poll() is not None
            ),
            "a hang on one slot delays the other",
        )
        return worker

    def end(self) -> str:
        """Let the case go on; return what the sweep prints, which leaves one row per case and no task."""
        (self.workspace.folder / "go").touch()
        _, err = self.process.communicate(timeout=PATIENCE_S)
        assert self.process.returncode == 0, err
        rows = read_records(self.workspace.out)
        assert Counter(row.seq_len for row in rows) == Counter(LENGTHS)
        assert {(row.status, row.executor) for row in rows} == {("ok", "slurm 2")}
        until(lambda: not tasks(), "tasks outlive the driver")
        return err


@dataclass(frozen=True)
class Task:
    """The task of SLURM that a worker is of, by SLURM's name and as a process."""

    name: str
    pid: int

    @classmethod
    def of(cls, worker: psutil.Process) -> Task:
        told = worker.environ()
        above = next(each for each in worker.parents() if "submitit.core._submit" in each.cmdline())
        return cls(f"{told['SLURM_ARRAY_JOB_ID']}_{told['SLURM_ARRAY_TASK_ID']}", above.pid)


@pytest.fixture
def sweep(new_workspace: Workspace) -> Iterator[Sweep]:
    started = Sweep(new_workspace)
    yield started
    if started.process.poll() is None:
        started.process.kill()
        started.process.communicate()


def test_each_gpu_has_one_job_at_a_time_and_one_gpu_measures_what_two_do(
    forked_workers: None, without_accounting: None, new_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(new_workspace.folder)
    suite = new_workspace.suite(["Visits", "KilledOnce"], seq_len=LENGTHS[:4])
    keys: list[Counter[tuple[str, ...]]] = []
    for wanted in ("2", "1"):
        with closing(SlurmFleet(wanted, task=FakeGpuTask)) as fleet:
            assert len(fleet.slots) == int(wanted)
            keys.append(keys_measured_on(fleet, new_workspace, suite))  # though a worker is killed once
        until(lambda: not tasks(), "tasks outlive the fleet")
    assert keys[0] == keys[1]
    assert set(keys[0].values()) == {1}


def test_a_task_that_is_requeued_is_a_slot_that_is_lost(
    without_accounting: None, sweep: Sweep, wait_gone: Callable[[int], None]
) -> None:
    task = Task.of(sweep.begin())
    # The driver asks for no requeue; whoever runs the cluster may have it anyway.
    refused = subprocess.run(["scontrol", "requeue", task.name], capture_output=True, text=True)
    assert "disabled" in refused.stderr
    slurm("scontrol", "update", f"JobId={task.name}", "Requeue=1")
    slurm("scontrol", "requeue", task.name)
    wait_gone(task.pid)
    assert "is lost: its task has ended" in sweep.end()


def test_a_task_that_is_cancelled_costs_no_row(
    without_accounting: None, sweep: Sweep, wait_gone: Callable[[int], None]
) -> None:
    task = Task.of(sweep.begin())
    slurm("scancel", task.name)
    wait_gone(task.pid)
    assert "is lost: its task has ended" in sweep.end()


def test_with_accounting_a_killed_driver_and_a_cancelled_task_cost_no_row(
    with_accounting: None, sweep: Sweep, wait_gone: Callable[[int], None]
) -> None:
    worker = sweep.begin()
    sweep.process.kill()
    sweep.process.communicate()
    wait_gone(worker.pid)
    until(lambda: not tasks(), "tasks outlive the driver")
    task = Task.of(sweep.begin())
    slurm("scancel", task.name)
    wait_gone(task.pid)
    err = sweep.end()
    assert f"{len(LENGTHS)} cases, {len(LENGTHS) - 1} of them recorded already" in err
    assert "is lost: its task has ended" in err
    ended = partial(slurm, "sacct", "-n", "-X", "-P", "-o", "state")
    until(lambda: any(state.startswith("CANCELLED") for state in ended()), "the books know of no scancel")
    assert len(ended()) == 4
