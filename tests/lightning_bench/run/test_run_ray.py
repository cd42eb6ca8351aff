"""Sweeps on a Ray cluster of two nodes on this machine; skipped where Ray is not installed."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from lightning_bench.record import read_records
from lightning_bench.run.lane import Crew
from lightning_bench.run.ray_executor import RayFleet
from tests.support.fake_gpu_host import FakeGpuHost, ForkingHost, keys_measured_on
from tests.support.paths import ROOT
from tests.support.patience import PATIENCE_S
from tests.support.workspace import Workspace, until

ray = pytest.importorskip("ray", reason="Ray is not installed (the extra `ray`): nothing of it is tested")
pytestmark = pytest.mark.slow  # a cluster starts

STORE = {"object_store_memory": 80 * 2**20}  # the least: a sweep keeps nothing in it
LENGTHS = [32, 64, 96, 128, 160, 192]


@pytest.fixture(scope="module")
def cluster(forked_workers: None) -> Iterator[Any]:
    """Start a node with one CPU, whose address `lbench` finds in RAY_ADDRESS."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_memory_monitor_refresh_ms", "0")  # how full this machine is decides no test
        patch.setenv("PYTHONPATH", str(ROOT))  # actors of these tests are classes of theirs
        started = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 1, "include_dashboard": False, **STORE},
            shutdown_at_exit=False,
        )
        patch.setenv("RAY_ADDRESS", started.address)
        yield started
        started.shutdown()


@pytest.fixture(scope="module")
def node(cluster: Any) -> Any:
    """Start a second node with one CPU and two GPUs that no machine has; the last test kills it."""
    return cluster.add_node(num_cpus=1, num_gpus=2, **STORE)


def test_a_cluster_without_a_gpu_says_so(cluster: Any, new_workspace: Workspace) -> None:
    try:
        for words, instead in (
            (["check", "quick"], "give --gpus cpu:N"),
            (["calibrate", "quick"], "calibrate a CPU without --gpus"),
        ):
            ran = new_workspace.call(*words, "--executor", "ray")
            assert (ran.code, ran.out) == (2, "")
            assert f"the Ray cluster has no GPU; add one, or {instead}\n" in ran.err
    finally:
        ray.shutdown()


def test_each_gpu_has_one_job_at_a_time_and_one_gpu_measures_what_two_do(
    node: Any, new_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(new_workspace.folder)
    suite = new_workspace.suite(["Visits", "KilledOnce"], seq_len=LENGTHS[:4])
    keys: list[Counter[tuple[str, ...]]] = []
    try:
        for wanted in ("all", "1"):
            with closing(RayFleet(wanted, host=FakeGpuHost)) as fleet:
                assert {slot.executor for slot in fleet.slots} == {f"ray {len(fleet.slots)}"}
                keys.append(keys_measured_on(fleet, new_workspace, suite))  # though a worker is killed once
    finally:
        ray.shutdown()
    assert keys[0] == keys[1]
    assert set(keys[0].values()) == {1}


@pytest.fixture
def command(cluster: Any, new_workspace: Workspace) -> list[str | Path]:
    suite = new_workspace.suite(["WaitsAt128"], seq_len=LENGTHS)
    return ["check", suite, "--out", new_workspace.out, "--executor", "ray", "--gpus", "cpu:2"]


def until_others_are_done(workspace: Workspace, process: Any) -> int:
    """Wait until one slot waits and the other has measured the rest; return the worker that waits."""
    worker = int(workspace.appears("waiting").read_text())
    until(
        lambda: workspace.out.read_bytes().count(b"\n") == len(LENGTHS) or process.poll() is not None,
        "the other slot did not go on",
    )
    return worker


def rows(workspace: Workspace) -> Counter[int]:
    found = read_records(workspace.out)
    assert {row.status for row in found} == {"ok"}
    assert {row.executor for row in found} == {"ray 2"}
    return Counter(row.seq_len for row in found)


def test_a_killed_driver_frees_its_slots_and_the_same_command_goes_on(
    node: Any, new_workspace: Workspace, command: list[Any], wait_gone: Callable[[int], None]
) -> None:
    process = new_workspace.start(*command)
    try:
        worker = until_others_are_done(new_workspace, process)
    finally:
        process.kill()
        process.communicate()
    wait_gone(worker)
    (new_workspace.folder / "go").touch()
    again = new_workspace.run(*command)
    assert again.returncode == 0, again.stderr
    assert f"{len(LENGTHS)} cases, {len(LENGTHS) - 1} of them recorded already" in again.stderr
    assert rows(new_workspace) == Counter(LENGTHS)


def test_a_slot_that_has_died_before_a_plan_costs_no_row(
    node: Any, new_workspace: Workspace, monkeypatch: pytest.MonkeyPatch, wait_gone: Callable[[int], None]
) -> None:
    monkeypatch.chdir(new_workspace.folder)
    try:
        with closing(RayFleet("cpu:2", host=ForkingHost)) as fleet:
            pid = int(fleet.slots[0].name.rpartition(" ")[2])
            os.kill(pid, signal.SIGKILL)
            wait_gone(pid)
            with closing(fleet.executor(Crew("cpu"))) as executor:
                new_workspace.sweep(new_workspace.suite(["Good"], seq_len=LENGTHS), executor=executor)
    finally:
        ray.shutdown()
    assert rows(new_workspace) == Counter(LENGTHS)


def test_a_node_that_dies_costs_no_row(
    cluster: Any, node: Any, new_workspace: Workspace, command: list[Any]
) -> None:
    process = new_workspace.start(*command)
    try:
        until_others_are_done(new_workspace, process)
        cluster.remove_node(node, allow_graceful=False)
        (new_workspace.folder / "go").touch()
        _, err = process.communicate(timeout=PATIENCE_S)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, err
    assert rows(new_workspace) == Counter(LENGTHS)


def test_no_cluster(new_workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    ran = new_workspace.run("check", "quick", "--executor", "ray", "--gpus", "cpu:1")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "no Ray cluster answers" in ran.stderr
