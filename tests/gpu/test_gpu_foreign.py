"""Foreign load on a real GPU: a second process that computes, one that only holds a context, the probe."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from lightning_bench.case import Case, Direction, Shape
from lightning_bench.machine import describe_machine
from lightning_bench.machine.gpu import cuda_gpu
from lightning_bench.machine.gpu_processes import GpuProcesses
from lightning_bench.record import Record, ResultFile
from lightning_bench.run.plan import Plan, with_providers
from lightning_bench.run.progress import QuietWatcher
from lightning_bench.run.sweep import run_sweep
from lightning_bench.suite import Limits

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("default"),  # other libraries' warnings are not ours
]

LIMITS = Limits(time_limit_s=120, sample_limit_s=1.0, min_samples=20, max_samples=200)
PROVIDERS = ("sdpa-flash", "lightning2", "sdpa-cudnn")
DIRECTIONS: tuple[Direction, ...] = ("fwd", "bwd")

COMPUTES = """
import torch
a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
torch.cuda.synchronize()
print("ready", flush=True)
while True:
    for _ in range(20):
        a @ b
    torch.cuda.synchronize()
"""
HOLDS = """
import time, torch
a = torch.ones(2**28, device="cuda")
torch.cuda.synchronize()
print("ready", flush=True)
time.sleep(600)
"""


@contextmanager
def second_process(code: str) -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process.pid
    finally:
        process.kill()
        process.wait()


def rows(folder: Path, lengths: tuple[int, ...] = (512, 4096)) -> list[Record]:
    """Measure both short and long kernels in worker processes."""
    cases = [
        Case(Shape(4, 32, n, 128, 128, "bf16", "cuda"), provider, direction)
        for n in lengths
        for provider in PROVIDERS
        for direction in DIRECTIONS
    ]
    plan = Plan("gpu", "speed", "lbench", LIMITS, describe_machine("cuda"), "cuda", tuple(cases))
    with ResultFile(folder / "rows.csv") as out:
        found = run_sweep(with_providers(plan), out, QuietWatcher()).records
    return [record for record in found if record.worked]


@pytest.fixture(autouse=True)
def load_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LBENCH_LOAD", raising=False)


def test_no_row_is_ok_beside_a_process_that_computes(tmp_path: Path) -> None:
    with second_process(COMPUTES):
        found = rows(tmp_path)
    assert len(found) >= 4
    for record in found:
        assert record.status == "unstable", f"{record.case_id}: {record.reason} {record.gpu_neighbours}"
        assert "computed on the GPU" in record.reason or "the GPU served others" in record.reason


def test_a_process_that_only_holds_a_context_disturbs_nobody(tmp_path: Path) -> None:
    if GpuProcesses(cuda_gpu()).everyone().computed:
        pytest.skip("other processes compute on this GPU now")
    with second_process(HOLDS):
        found = rows(tmp_path, lengths=(4096,))
    assert found
    for record in found:
        assert "on the GPU" not in record.reason, record.reason
        assert "the GPU served others" not in record.reason, record.reason


def test_the_probe_shows_who_else_is_served() -> None:
    from lightning_bench.measure.device.gpu_probe import GpuProbe

    probe = GpuProbe()
    alone = [ratio for _ in range(50) if (ratio := probe.take()) is not None]
    with second_process(COMPUTES):
        known, new = probe, GpuProbe()  # the second has never seen the GPU idle
        shared = [ratio for _ in range(20) for p in (known, new) if (ratio := p.take()) is not None]
    print(f"alone {min(alone):.4f} to {max(alone):.4f}, shared {min(shared):.3f} to {max(shared):.3f}")
    assert min(alone) > 0.97
    assert max(alone) < 1.05
    assert sum(ratio > 1.1 for ratio in shared) >= 0.5 * len(shared), "the rule asks for a fifth"


def test_a_row_says_which_gpu_it_was_measured_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LBENCH_IDENTITY", "plain")
    machine = describe_machine("cuda")
    assert str(torch.cuda.get_device_properties(0).uuid) in machine.gpu_uuid or machine.mig != "off"
    monkeypatch.setenv("LBENCH_IDENTITY", "hashed")
    assert describe_machine("cuda").gpu_uuid not in ("", machine.gpu_uuid)
    assert machine.power_limit_w is None or machine.power_limit_w > 50
    assert machine.sm_clock_limit_mhz is None or machine.sm_clock_limit_mhz > 500
