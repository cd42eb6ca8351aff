"""The counter of energy, on machines played by a fake NVML."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from lightning_bench.machine.gpu import Gpu
from lightning_bench.measure.device.energy import NoEnergy, energy_per_token_j, make_energy
from lightning_bench.measure.device.rapl import RaplEnergy
from tests.support.fake_nvml import H200, Board, FakeNvml, NvmlError


def gpu(name: str = H200, uuid: str = "GPU-0aaa") -> Gpu:
    return Gpu(name, "9.0", "570.1", uuid, uuid)


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake = FakeNvml([Board(H200, "GPU-0aaa", 1000), Board(H200, "GPU-1aaa", 1200)])
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


def test_joules_are_those_of_the_gpu_in_question(nvml: FakeNvml) -> None:
    first, second = make_energy("cuda", gpu()), make_energy("cuda", gpu(uuid="GPU-1aaa"))
    assert (first.read_j(), second.read_j()) == (5000.0, 6000.0)
    assert first.missing == second.missing == ""


def test_joules_per_token_need_two_readings_far_apart() -> None:
    assert energy_per_token_j(100.0, 130.0, 2.0, 60) == 0.5
    assert energy_per_token_j(100.0, 130.0, 1.9, 60) is None
    assert energy_per_token_j(None, 130.0, 9.0, 60) is None
    assert energy_per_token_j(100.0, None, 9.0, 60) is None


def test_a_slice_and_a_cpu_without_rapl_have_none_and_say_so(
    nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("lightning_bench.measure.device.energy.RaplEnergy", lambda: RaplEnergy(tmp_path))
    for energy, why in (
        (make_energy("cuda", gpu(f"{H200} MIG 1g.18gb")), "MIG slice"),
        (make_energy("cpu"), "this CPU counts no energy that can be read: RAPL: no package below"),
    ):
        assert energy.read_j() is None
        assert why in energy.missing


def test_a_part_of_the_processors_has_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("lightning_bench.measure.device.energy.RaplEnergy", lambda: NoEnergy(""))
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    for processors, missing in (
        ({0, 1, 2, 3}, ""),
        ({1}, "RAPL counts all 4 processors, and this process may"),
    ):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, found=processors: found)
        assert make_energy("cpu").missing.startswith(missing)
        assert bool(make_energy("cpu").missing) == bool(missing)


def test_a_gpu_without_a_counter_says_so(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(handle: object) -> int:
        raise NvmlError("Not Supported", 3)

    monkeypatch.setattr(nvml, "nvmlDeviceGetTotalEnergyConsumption", unsupported)
    energy = make_energy("cuda", gpu())
    assert energy.read_j() is None
    assert energy.missing == "NVML counts no energy here (NvmlError)"


def test_joules_of_a_cpu_are_those_of_all_packages_beyond_the_end_of_a_counter(tmp_path: Path) -> None:
    def counts(**readings: int) -> None:
        for name, microjoules in readings.items():
            folder = tmp_path / name.replace("_", ":")
            folder.mkdir(exist_ok=True)
            (folder / "energy_uj").write_text(f"{microjoules}\n")
            (folder / "max_energy_range_uj").write_text("10000000\n")

    counts(**{"intel-rapl_0": 9_000_000, "intel-rapl_1": 1_000_000, "intel-rapl_0_0": 5_000_000})
    energy = RaplEnergy(tmp_path)
    assert energy.read_j() == 0.0
    counts(**{"intel-rapl_0": 500_000, "intel-rapl_1": 1_250_000})
    assert energy.read_j() == 1.5 + 0.25
    counts(**{"intel-rapl_0": 600_000})
    assert energy.read_j() == pytest.approx(1.85)
