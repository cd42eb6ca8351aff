"""Tasks of submitit, started on this machine without SLURM; skipped where submitit is not installed."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from lightning_bench.errors import UsageError
from lightning_bench.record import read_records
from lightning_bench.run.lane import Crew
from lightning_bench.run.remote_slots import read_count
from lightning_bench.run.slurm_executor import SlurmFleet
from tests.support.patience import PATIENCE_S
from tests.support.workspace import Workspace, until

submitit = pytest.importorskip("submitit")
pytestmark = [
    pytest.mark.slow,  # tasks and their workers start
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # processes of submitit
]

LENGTHS = [32, 64, 96, 128, 160]


@pytest.fixture
def fleet(new_workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmFleet]:
    monkeypatch.chdir(new_workspace.folder)
    with closing(SlurmFleet("cpu:2", cluster="local")) as started:
        yield started
    for job in started._jobs:  # a process of submitit that nobody has waited for is a ResourceWarning later
        job._process.wait(PATIENCE_S)


def test_a_task_that_is_killed_costs_no_row_and_tasks_end_with_the_driver(
    new_workspace: Workspace, fleet: SlurmFleet, wait_gone: Callable[[int], None]
) -> None:
    assert [slot.executor for slot in fleet.slots] == ["slurm 2"] * 2
    pids = [int(slot.name.rpartition(" ")[2]) for slot in fleet.slots]
    suite = new_workspace.suite(["WaitsAt128"], seq_len=LENGTHS)

    def strike() -> None:
        """Once one task waits and the other has done the rest, kill the one that waits."""
        worker = int(new_workspace.appears("waiting").read_text())
        until(lambda: new_workspace.out.read_bytes().count(b"\n") == len(LENGTHS), "the other did not go on")
        (victim,) = (pid for pid in pids if pid in ancestors(worker))
        os.kill(victim, signal.SIGKILL)
        wait_gone(worker)
        (new_workspace.folder / "go").touch()

    striking = threading.Thread(target=strike)
    striking.start()
    with closing(fleet.executor(Crew("cpu"))) as executor:
        new_workspace.sweep(suite, executor=executor)
    striking.join()
    rows = read_records(new_workspace.out)
    assert Counter(row.seq_len for row in rows) == Counter(LENGTHS)
    assert {(row.status, row.executor) for row in rows} == {("ok", "slurm 2")}
    fleet.close()
    for pid in pids:
        wait_gone(pid)


def test_a_task_that_has_died_costs_no_row_of_this_plan_and_the_next(
    new_workspace: Workspace, fleet: SlurmFleet, wait_gone: Callable[[int], None]
) -> None:
    pid = int(fleet.slots[0].name.rpartition(" ")[2])
    os.kill(pid, signal.SIGKILL)
    wait_gone(pid)
    for lengths in (LENGTHS[:2], LENGTHS):
        with closing(fleet.executor(Crew("cpu"))) as executor:
            new_workspace.sweep(new_workspace.suite(["Good"], seq_len=lengths), executor=executor)
    rows = read_records(new_workspace.out)
    assert Counter(row.seq_len for row in rows) == Counter(LENGTHS)
    assert {(row.status, row.executor) for row in rows} == {("ok", "slurm 2")}


def ancestors(pid: int) -> set[int]:
    return {process.pid for process in psutil.Process(pid).parents()}


def test_a_task_that_cannot_measure_says_why(
    new_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(new_workspace.folder)
    with pytest.raises(UsageError, match="a task of the SLURM job cannot measure: no CUDA device"):
        SlurmFleet("1", cluster="local")


def test_no_slurm_here(new_workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(new_workspace.folder)
    monkeypatch.setenv("PATH", str(Path("/nowhere")))
    with pytest.raises(UsageError, match="SLURM takes no job"):
        SlurmFleet("cpu:1")
    with pytest.raises(UsageError, match="give --gpus N"):
        SlurmFleet("all")


@pytest.mark.parametrize(
    ("text", "found"), [("all", (None, "cuda")), ("8", (8, "cuda")), (" cpu:3 ", (3, "cpu"))]
)
def test_how_many_are_asked_for(text: str, found: tuple[int | None, str]) -> None:
    assert read_count(text) == found


@pytest.mark.parametrize("text", ["0", "0,1", "GPU-1", "cpu:", "-1", ""])
def test_what_is_no_number_of_slots(text: str) -> None:
    with pytest.raises(UsageError, match="allowed with ray and slurm: all, 8"):
        read_count(text)
