"""Other processes on the GPU, as a fake NVML lists them, and which of all it lists we are."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from lightning_bench.machine import describe_machine
from lightning_bench.machine.gpu import Gpu, gpu_limits
from lightning_bench.machine.gpu_processes import GpuNeighbours, GpuProcesses
from tests.support.fake_nvml import H200, Board, FakeNvml

GPU = Gpu(H200, "9.0", "570.1", "GPU-0aaa", "GPU-0aaa")
SLICE = Gpu(f"{H200} MIG 1g.18gb", "9.0", "570.1", "GPU-0aaa", "MIG-5")
ME, HOSTS_NAME_FOR_ME, OTHER, IDLE = os.getpid(), 901, 902, 903


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake = FakeNvml([Board(slices=("MIG-4", "MIG-5")), Board(uuid="GPU-1aaa")])
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """Return the namespace of processes that sees all."""
    path = tmp_path / "pid"
    path.symlink_to("pid:[4026531836]")
    return path


@pytest.fixture
def container(tmp_path: Path) -> Path:
    path = tmp_path / "inner"
    path.symlink_to("pid:[4026532999]")
    return path


def us(ago_s: float = 0.0) -> int:
    return int((time.time() - ago_s) * 1e6)


def test_alone(nvml: FakeNvml, host: Path) -> None:
    found = GpuProcesses(GPU, host)
    nvml.compute["GPU-0aaa"] = [ME]
    found.note_context({ME})
    nvml.use = [(ME, us(), 99)]
    assert found.tells
    assert found.read() == GpuNeighbours()
    assert str(found.read()) == ""


def test_others_and_what_they_compute(nvml: FakeNvml, host: Path) -> None:
    nvml.compute["GPU-0aaa"] = [OTHER]
    nvml.graphics["GPU-0aaa"] = [IDLE]
    nvml.compute["GPU-1aaa"] = [77]  # on another GPU
    found = GpuProcesses(GPU, host)
    nvml.compute["GPU-0aaa"] = [OTHER, ME]
    nvml.use = [(OTHER, us(3.0), 50)]  # before this process had a context
    found.note_context({ME})
    assert found.read() == GpuNeighbours(frozenset({OTHER, IDLE}))
    nvml.use += [(ME, us(-1.0), 90), (OTHER, us(-1.0), 30), (OTHER, us(-2.0), 60), (IDLE, us(-2.0), 0)]
    assert found.read() == GpuNeighbours(frozenset({OTHER, IDLE}), {OTHER: 60})
    assert found.read() == GpuNeighbours(frozenset({OTHER, IDLE}))  # nothing new


def test_places_of_the_list_that_the_driver_leaves_unfilled(nvml: FakeNvml, host: Path) -> None:
    found = GpuProcesses(GPU, host)
    nvml.compute["GPU-0aaa"] = [ME]
    found.note_context({ME})
    nvml.use = [(0, us(), 50), (OTHER, us(), 4_000_000), (OTHER, 2**62, 50)]
    assert found.read() == GpuNeighbours()
    nvml.use += [(OTHER, us(), 50)]
    assert found.read().computed == {OTHER: 50}


def test_an_ancestor_with_a_context_is_ours(nvml: FakeNvml, host: Path) -> None:
    nvml.compute["GPU-0aaa"] = [44]
    found = GpuProcesses(GPU, host)
    nvml.compute["GPU-0aaa"] = [44, ME]
    found.note_context({ME, 44})
    assert found.read() == GpuNeighbours()


def test_in_a_container_we_are_who_appeared(nvml: FakeNvml, container: Path) -> None:
    nvml.compute["GPU-0aaa"] = [OTHER]
    found = GpuProcesses(GPU, container)
    nvml.compute["GPU-0aaa"] = [OTHER, HOSTS_NAME_FOR_ME]
    found.note_context({ME})
    nvml.use = [(HOSTS_NAME_FOR_ME, us(-1.5), 99), (OTHER, us(-1.5), 20)]
    assert found.read() == GpuNeighbours(frozenset({OTHER}), {OTHER: 20})
    assert not found.tells  # there may be others that NVML does not show here


@pytest.mark.parametrize("appeared", [[], [HOSTS_NAME_FOR_ME, OTHER]])
def test_who_cannot_tell_itself_from_others_blames_nobody(
    nvml: FakeNvml, host: Path, appeared: list[int]
) -> None:
    found = GpuProcesses(GPU, host)
    nvml.compute["GPU-0aaa"] = appeared
    found.note_context({ME})
    nvml.use = [(pid, us(), 99) for pid in (HOSTS_NAME_FOR_ME, OTHER)]
    assert found.read() == GpuNeighbours()
    assert not found.tells


def test_where_use_is_not_counted_nvml_does_not_tell(nvml: FakeNvml, host: Path) -> None:
    nvml.use = None
    nvml.compute["GPU-0aaa"] = [OTHER]
    found = GpuProcesses(GPU, host)
    nvml.compute["GPU-0aaa"] = [OTHER, ME]
    found.note_context({ME})
    assert found.read() == GpuNeighbours(frozenset({OTHER}))
    assert not found.tells


def test_a_slice_has_processes_of_its_own(nvml: FakeNvml, host: Path) -> None:
    nvml.compute["GPU-0aaa"] = [OTHER, ME]
    found = GpuProcesses(SLICE, host)
    nvml.compute["MIG-5"] = [ME]
    found.note_context({ME})
    assert found.read() == GpuNeighbours()


def test_what_others_used_before_a_job_is_forgotten(nvml: FakeNvml, host: Path, container: Path) -> None:
    for namespace, late_s in ((host, 0.0), (container, 1.0)):
        nvml.compute["GPU-0aaa"] = []
        found = GpuProcesses(GPU, namespace)
        nvml.compute["GPU-0aaa"] = [ME]
        found.note_context({ME})
        nvml.use = [(OTHER, us(), 50)]
        found.forget()
        nvml.use += [(OTHER, us(-late_s + 0.2), 60)]  # of a second that had begun before
        assert found.read().computed == {}
        nvml.use += [(OTHER, us(-late_s - 0.5), 70)]
        assert found.read().computed == {OTHER: 70}


def test_everyone_for_a_process_without_a_context(nvml: FakeNvml, host: Path) -> None:
    nvml.compute["GPU-0aaa"] = [OTHER, IDLE]
    found = GpuProcesses(GPU, host)
    nvml.use = [(OTHER, us(), 70)]
    assert found.everyone() == GpuNeighbours(frozenset({OTHER, IDLE}), {OTHER: 70})


def test_sightings_add_up() -> None:
    assert GpuNeighbours(frozenset({1, 2}), {1: 5}).without({1, 3}) == GpuNeighbours(frozenset({2}))
    first, second = GpuNeighbours(frozenset({1}), {1: 5}), GpuNeighbours(frozenset({2}), {1: 9, 2: 1})
    assert first.and_later(second) == GpuNeighbours(frozenset({1, 2}), {1: 9, 2: 1})


def test_limits_of_a_gpu(nvml: FakeNvml) -> None:
    limits = gpu_limits(GPU)
    assert (limits.power_w, limits.sm_clock_mhz, limits.memory_clock_mhz) == (700.0, 990.0, 2000.0)
    assert limits.ecc == "on"
    nvml.boards = [Board(ecc=None, watts=650)]
    assert (gpu_limits(GPU).ecc, gpu_limits(GPU).power_w) == ("", 650.0)
    unknown = Gpu(H200, "9.0", "570.1", "GPU-9")
    assert gpu_limits(unknown).power_w is None
    assert nvml.open == 0


def test_profile_of_a_slice() -> None:
    assert (SLICE.mig, GPU.mig) == ("1g.18gb", "off")


def test_a_machine_on_a_cpu_has_a_host_and_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    found = describe_machine("cpu")
    assert len(found.host) == 12
    assert (found.gpu_uuid, found.power_limit_w, found.mig, found.ecc) == ("", None, "", "")
