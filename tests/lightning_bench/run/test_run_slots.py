"""Sweeps on several slots: workers that are real, on GPUs that are names only; hangs, kills and refusals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any

import pytest

from lightning_bench.machine import describe_machine
from lightning_bench.machine.place_lock import hold, holder
from lightning_bench.record import Record, ResultFile, read_records
from lightning_bench.run.executor import Slot, Unit
from lightning_bench.run.lane import Crew
from lightning_bench.run.local_executor import LocalExecutor
from lightning_bench.run.pairs import Tree, pair_crew, run_pairs
from lightning_bench.run.plan import Plan
from lightning_bench.suite import load_suite
from tests.support.fake_slots import OWN, fake_gpu_slots
from tests.support.gpu_visits import assert_one_at_a_time, visits
from tests.support.patience import PATIENCE_S
from tests.support.workspace import until

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("forked_workers")]

OWN_LOCKS = f"from lightning_bench.machine import place_lock; place_lock._NAMESPACE = 'tests {OWN}'"
LENGTHS = [32, 64, 96, 128, 160, 192]


def keys(records: list[Record]) -> Counter[tuple[str, ...]]:
    return Counter(record.key for record in records)


def measured(workspace: Any, count: int) -> list[Record]:
    """Sweep the same cases on so many slots into a new file, in which a worker kills itself once."""
    suite = workspace.suite(["Visits", "KilledOnce"], seq_len=LENGTHS)
    workspace.out.unlink(missing_ok=True)
    with closing(LocalExecutor(fake_gpu_slots(count), Crew("cpu"))) as executor:
        summary = workspace.sweep(suite, executor=executor)
    assert summary.slots == count
    rows: list[Record] = read_records(workspace.out)
    assert keys(rows) == keys(summary.records)
    return rows


def test_several_slots_measure_what_one_does_and_each_one_job_at_a_time(workspace: Any) -> None:
    on_four = measured(workspace, 4)
    found = visits(workspace.folder)
    assert_one_at_a_time(found, {f"GPU-{number}-{OWN}" for number in range(4)})
    assert len({visit.pid for visit in found}) >= 4
    # A worker that was killed once costs no case its row, and none has two.
    assert set(keys(on_four).values()) == {1}
    assert {row.status for row in on_four} == {"ok"}
    assert {row.executor for row in on_four} == {"local 4"}
    assert keys(measured(workspace, 1)) == keys(on_four)


@pytest.mark.parametrize("count", [1, 2])
def test_several_slots_begin_with_what_takes_longest(count: int, workspace: Any) -> None:
    given: list[int] = []

    class Notes(LocalExecutor):
        def submit(self, slot: Slot, unit: Unit) -> None:
            given.append(unit.job.shape.seq_len)
            super().submit(slot, unit)

    workspace.out.unlink(missing_ok=True)
    with closing(Notes(fake_gpu_slots(count), Crew("cpu"))) as executor:
        workspace.sweep(workspace.suite(["Good"], seq_len=LENGTHS), executor=executor)
    assert given == sorted(LENGTHS, reverse=count > 1)


def test_a_worker_that_waits_is_no_reason_to_wait_for_close(workspace: Any, wait_gone: Any) -> None:
    suite = workspace.suite(["WaitsAt128"], seq_len=[128])
    workspace.out.unlink(missing_ok=True)

    class InterruptsError(Exception):
        pass

    def entered(case_id: str, phase: str) -> None:
        if case_id:
            workspace.appears("waiting")
            raise InterruptsError

    with pytest.raises(InterruptsError), closing(LocalExecutor(fake_gpu_slots(2), Crew("cpu"))) as executor:
        workspace.sweep(suite, executor=executor, watcher=_watcher(entered))
    wait_gone(int((workspace.folder / "waiting").read_text()))
    (workspace.folder / "waiting").unlink()
    assert holder(f"GPU-0-{OWN}") is None


def test_both_sides_of_a_shape_are_measured_on_one_gpu(workspace: Any) -> None:
    for visit in workspace.folder.glob("visit-*"):
        visit.unlink()
    suite = workspace.suite(["Visits"], seq_len=LENGTHS[:3])
    plan = Plan.of(load_suite(suite), "check", describe_machine("cpu"))
    crew = pair_crew(plan, [(), ()])
    with ExitStack() as stack:
        executor = stack.enter_context(closing(LocalExecutor(fake_gpu_slots(2), crew)))
        files = [stack.enter_context(ResultFile(workspace.folder / f"{name}.csv")) for name in "ab"]
        trees = [Tree(plan, (), file, file.path.stem) for file in files]
        run_pairs(trees, 6, _watcher(lambda *_: None), executor)
    base, head = ({row.case_id: row.gpu_uuid for row in file.records} for file in files)
    assert base == head
    assert set(base.values()) == {"digits-0", "digits-1"}
    assert [len(file.records) for file in files] == [3, 3]
    assert len({visit.pid for visit in visits(workspace.folder)}) == 4


def _watcher(on_enter: Callable[[str, str], None]) -> Any:
    from lightning_bench.run.progress import QuietWatcher

    class Watcher(QuietWatcher):
        def entered(self, case_id: str, phase: str) -> None:
            on_enter(case_id, phase)

    return Watcher()


@dataclass
class Story:
    """What a sweep on two slots left at each step."""

    workspace: Any
    pid: int = 0
    beside: list[str] = field(default_factory=list)
    refused: Any = None
    killed: list[Record] = field(default_factory=list)
    resumed: Any = None


@pytest.fixture(scope="module")
def story(workspace: Any, wait_gone: Callable[[int], None]) -> Iterator[Story]:
    """Hang one of two slots, try a second sweep, kill the driver, and run the same command again."""
    workspace.out.unlink(missing_ok=True)
    suite = workspace.suite(["WaitsAt128"], seq_len=LENGTHS, name="two")
    command = ["check", suite, "--out", workspace.out, "--gpus", "cpu:2"]
    process = workspace.start(*command, code=OWN_LOCKS)
    try:
        worker = int(workspace.appears("waiting").read_text())
        story = Story(workspace, process.pid)
        until(
            lambda: workspace.out.read_bytes().count(b"\n") == len(LENGTHS) or process.poll() is not None,
            "the other slot did not go on",
        )
        story.beside = workspace.ids()
        story.refused = workspace.run("check", suite, "--out", "other.csv", "--gpus", "cpu:1", code=OWN_LOCKS)
        process.kill()
        process.communicate(timeout=PATIENCE_S)
        wait_gone(worker)
        story.killed = read_records(workspace.out)
        (workspace.folder / "go").touch()
        story.resumed = workspace.run(*command, code=OWN_LOCKS)
        yield story
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def test_a_hang_on_one_slot_delays_no_other(story: Story) -> None:
    assert sorted(story.beside) == sorted(f"waits-at-128 {n}" for n in LENGTHS if n != 128)


def test_a_second_sweep_on_a_busy_slot_is_refused_with_the_holder(story: Story) -> None:
    assert story.refused.returncode == 2
    assert story.refused.stderr.startswith(f"lbench: CPU 0 is in use by pid {story.pid} (")
    assert "wait for it, or name others by --gpus" in story.refused.stderr
    assert not (story.workspace.folder / "other.csv").exists()


def test_a_killed_driver_leaves_one_row_per_case_after_the_same_command(story: Story) -> None:
    assert story.resumed.returncode == 0, story.resumed.stderr
    rows = read_records(story.workspace.out)
    assert rows[: len(story.killed)] == story.killed
    assert keys(rows) == Counter(dict.fromkeys(keys(rows), 1))
    assert sorted(row.seq_len for row in rows) == LENGTHS
    assert f"two check: {len(LENGTHS)} cases, {len(LENGTHS) - 1} of them recorded" in story.resumed.stderr
    assert "CPU 0: ok" in story.resumed.stderr


def test_who_holds_a_device_is_known_until_it_ends() -> None:
    code = (
        "from lightning_bench.machine.place_lock import hold\n"
        f"with hold({{'GPU-7-{OWN}': 'GPU 7'}}):\n print(flush=True)\n input()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    assert holder(f"GPU-7-{OWN}") == process.pid
    with (
        pytest.raises(Exception, match=f"GPU 7 is in use by pid {process.pid} "),
        hold({f"GPU-7-{OWN}": "GPU 7"}),
    ):
        pass
    process.kill()
    process.communicate()
    assert holder(f"GPU-7-{OWN}") is None
