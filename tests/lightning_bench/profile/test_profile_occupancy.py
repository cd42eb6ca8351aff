"""Occupancy by the CUDA guide's rules, held against what Nsight Compute counted on an H200."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lightning_bench.profile.data import Counters, Kernel
from lightning_bench.profile.occupancy import GpuLimits, occupancy_percent, with_occupancy
from lightning_bench.profile.parent import counters
from tests.support.paths import ROOT
from tests.support.profile_zoo import HOPPER, kernel

PROFILES = sorted((ROOT / "results/h200/profile").glob("*.json"))
H200 = GpuLimits(multiprocessors=132, warps=64, blocks=32, shared_bytes=233472, registers=65536)


def taken(path: Path) -> tuple[list[Kernel], list[Counters]]:
    """Kernels of a committed profile, and counters that stood apart from them."""
    profile: dict[str, Any] = json.loads(path.read_text())
    apart = [Counters.model_validate(entry) for entry in profile["counters"]]
    return [Kernel.model_validate(entry) for entry in profile["kernels"]], apart


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem.split("_b4")[0])
def test_every_launch_of_the_committed_profiles_has_its_counters(path: Path) -> None:
    """Some stood apart when they were taken, since ncu leaves out namespaces."""
    kernels, apart = taken(path)
    if apart:
        joined, left, note = counters.join(kernels, apart)
        assert (left, note) == ((), "")
        kernels = list(joined)
    heavy = [entry for entry in kernels if entry.kind == "kernel" and entry.share >= 0.1]
    assert heavy
    for entry in heavy:
        estimate = occupancy_percent(entry, H200)
        assert entry.counters is not None
        assert entry.counters.occupancy_percent is not None
        assert estimate is not None
        # Achieved is less where blocks end at different times; an idle multiprocessor counts in ours alone.
        assert 0.7 * estimate <= entry.counters.occupancy_percent <= 1.05 * estimate


@pytest.mark.parametrize(
    ("changes", "percent"),
    [
        ({}, 18.75),  # one block of 12 warps: shared memory
        ({"shared_bytes": 0}, 18.75),  # registers: 8 warps of 168 in a quarter of the register file
        ({"shared_bytes": 0, "registers": 32}, 75.0),  # a grid of four blocks a multiprocessor
        ({"shared_bytes": 0, "registers": 32, "grid": (10**6, 1, 1)}, 93.75),  # five blocks of 12 warps
        ({"shared_bytes": 0, "registers": 32, "block": (32, 1, 1), "grid": (10**6, 1, 1)}, 50.0),  # 32 blocks
        ({"shared_bytes": 0, "registers": 32, "block": (33, 1, 1), "grid": (10**6, 1, 1)}, 100.0),
        ({"grid": (66, 1, 1)}, 9.375),  # half of the multiprocessors stand idle
        ({"registers": None}, None),
        ({"registers": 0}, None),
        ({"grid": None}, None),
        ({"block": None}, None),
        ({"shared_bytes": None}, None),
    ],
)
def test_each_resource_can_limit_the_warps(changes: dict[str, Any], percent: float | None) -> None:
    assert occupancy_percent(kernel(HOPPER, 1.0, **changes), H200) == percent


def test_a_gpu_by_the_properties_that_torch_gives() -> None:
    def gpu(major: int, minor: int) -> GpuLimits:
        return GpuLimits.of(
            SimpleNamespace(
                multi_processor_count=132, max_threads_per_multi_processor=2048,
                shared_memory_per_multiprocessor=233472, regs_per_multiprocessor=65536,
                major=major, minor=minor,
            )
        )  # fmt: skip

    assert gpu(9, 0) == H200
    assert gpu(8, 9).blocks == 24


def test_a_fill_has_no_occupancy() -> None:
    fill = kernel("Memset (Device)", 0.01, kind="memset", grid=None, block=None, occupancy_percent=None)
    entry, other = with_occupancy([fill, kernel(HOPPER, 1.0)], H200)
    assert (entry.occupancy_percent, other.occupancy_percent) == (None, 18.75)
