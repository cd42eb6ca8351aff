"""Ceilings: measured on this CPU, kept with the machine's fingerprint, measured once."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_bench.errors import LbenchError, UsageError
from lightning_bench.machine import Machine, describe_machine
from lightning_bench.machine.ceilings import (
    Ceilings,
    DeviceCeilings,
    as_row,
    contradictions,
    keep,
    kept_path,
    read_kept,
)
from lightning_bench.measure import quiet_ceilings
from lightning_bench.measure.device import peaks
from lightning_bench.measure.device.peaks import cpu_l2_bytes, measure_ceilings
from lightning_bench.measure.foreign import LoadFigures, NoForeign
from lightning_bench.measure.quiet_ceilings import TRIES, undisturbed
from tests.support.patience import PATIENCE_S

Lbench = Callable[..., Any]

SOME = DeviceCeilings(copy_gbps=4233.25, fp32_tflops=50.0, tf32_tflops=400.0, bf16_tflops=790.0, l2_mib=50.0)


@pytest.fixture(scope="module")
def machine() -> Machine:
    return describe_machine("cpu")


def test_the_pair_of_a_speed_row_on_this_cpu() -> None:
    ceilings = measure_ceilings("cpu", "fp32")
    assert 0.1 < ceilings.gbps < 2000
    assert 1e-4 < ceilings.tflops < 50
    assert ceilings.l2_bytes == 0


@pytest.mark.parametrize(("trial_ms", "sizes"), [(1.0, [256, 768]), (10.0, [256])])
def test_a_dtype_that_a_cpu_computes_slowly_needs_no_large_product(
    monkeypatch: pytest.MonkeyPatch, trial_ms: float, sizes: list[int]
) -> None:
    asked: list[int] = []

    def matmul_ms(size: int, device: str, dtype: torch.dtype) -> float:
        asked.append(size)
        return float(trial_ms * (size / 256) ** 3)

    monkeypatch.setattr(peaks, "_matmul_ms", matmul_ms)
    rate = peaks._matmul_tflops("cpu", torch.bfloat16, tf32=True)
    assert asked == sizes
    assert rate == pytest.approx(2 * 256**3 / trial_ms / 1e9)


def test_fp32_is_compared_with_tf32_if_there_is_any() -> None:
    assert SOME.of("fp32") == Ceilings(4233.25, 400.0, 50 * 2**20)
    assert replace(SOME, tf32_tflops=None).of("fp32").tflops == 50.0
    assert SOME.of("bf16").tflops == 790.0
    with pytest.raises(UsageError, match=r"no matmul rate is kept for fp16: run `lbench ceilings --fresh`"):
        SOME.of("fp16")


H200 = DeviceCeilings(
    copy_gbps=4195.0,
    read_gbps=4264.0,
    write_gbps=4588.0,
    l2_gbps=9361.0,
    fp32_tflops=50.8,
    tf32_tflops=408.9,
    fp16_tflops=752.5,
    bf16_tflops=785.6,
    launch_us=5.9,
    call_us=12.2,
)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({}, []),
        ({"read_gbps": 4.4, "copy_gbps": 67.7, "write_gbps": None, "l2_gbps": None}, ["read_gbps is 4.4"]),
        (
            {"copy_gbps": 2000.0},
            ["copy_gbps is 2000 beside read_gbps", "copy_gbps is 2000 beside write_gbps"],
        ),
        ({"l2_gbps": 3500.0}, ["l2_gbps is 3500 beside write_gbps"]),
        ({"tf32_tflops": 30.0}, ["tf32_tflops is 30 beside fp32_tflops of 50.8"]),
        ({"fp16_tflops": 30.0}, ["fp16_tflops is 30 beside fp32_tflops of 50.8"]),
        ({"call_us": 4.0}, ["call_us is 4 beside launch_us of 5.9"]),
        ({"read_gbps": None, "tf32_tflops": None, "call_us": None}, []),
    ],
)
def test_ceilings_that_contradict_each_other(change: dict[str, Any], found: list[str]) -> None:
    sentences = contradictions(replace(H200, **change), "cuda")
    assert len(sentences) == len(found)
    assert all(map(str.startswith, sentences, found))


def test_a_cpu_has_more_room() -> None:
    ours = DeviceCeilings(copy_gbps=11.7, read_gbps=17.5, write_gbps=9.8, l2_gbps=89.0, fp16_tflops=0.001)
    assert contradictions(replace(ours, fp32_tflops=0.05, launch_us=2.33, call_us=2.46), "cpu") == []
    assert contradictions(replace(ours, read_gbps=4.4, copy_gbps=67.7), "cpu")


class LoadOnce(NoForeign):
    """Others compute beside the first measurements."""

    def __init__(self, disturbed: int) -> None:
        self.left = disturbed

    def figures(self, key: str) -> LoadFigures:
        self.left -= 1
        return LoadFigures(trouble="others computed" if self.left >= 0 else None)


def test_what_is_disturbed_or_contradicts_itself_is_measured_again() -> None:
    measured = iter([replace(H200, read_gbps=900.0, call_us=99.0), replace(H200, copy_gbps=4000.0)])
    said: list[str] = []
    assert undisturbed("cuda", NoForeign(), lambda device: next(measured), said.append) == H200
    assert len(said) == 1
    assert said[0].startswith("measuring again: read_gbps is 900 beside copy_gbps of 4195")
    said.clear()
    assert undisturbed("cuda", LoadOnce(TRIES - 1), lambda device: H200, said.append) == H200
    assert said == ["measuring again: others computed"] * (TRIES - 1)


@pytest.mark.parametrize(
    ("measured", "disturbed", "why"),
    [(H200, TRIES, "others computed"), (replace(H200, read_gbps=900.0), 0, "read_gbps is 900")],
)
def test_what_stays_so_is_not_kept(
    lbench: Lbench,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    measured: DeviceCeilings,
    disturbed: int,
    why: str,
) -> None:
    monkeypatch.setattr(quiet_ceilings, "measure_device", lambda device: measured)
    monkeypatch.setattr(quiet_ceilings, "make_foreign", lambda *_: LoadOnce(disturbed))
    out = tmp_path / "ceilings.csv"
    ran = lbench("ceilings", "--device", "cpu", "--out", out)
    assert ran.code == 4
    assert "the ceilings are not kept, since they cannot be trusted after 3 measurements" in ran.err
    assert why in ran.err
    assert not out.exists()


def test_kept_ceilings_are_read_back_only_for_their_machine(tmp_path: Path, machine: Machine) -> None:
    path = tmp_path / "results" / "ceilings.csv"
    assert read_kept(path, machine.id) is None
    first = keep(path, SOME, machine)
    other = replace(machine, driver="580")
    keep(path, replace(SOME, copy_gbps=1.0), other)
    assert read_kept(path, machine.id) == first
    keep(path, replace(SOME, copy_gbps=4300.0), machine)
    found = read_kept(path, machine.id)
    assert found is not None
    assert found.ceilings == replace(SOME, copy_gbps=4300.0)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["machine_id"] for row in rows] == [machine.id, other.id, machine.id]
    assert {row["device_name"] for row in rows} == {machine.device_name}


@pytest.mark.slow
@pytest.mark.usefixtures("forked_workers")
def test_a_cpu_has_ceilings_for_each_number_of_threads(
    lbench: Lbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: Machine
) -> None:
    import torch

    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    path = tmp_path / "ceilings.csv"
    for number in (threads, threads + 1):
        keep(path, replace(SOME, threads=number, copy_gbps=float(number)), machine)
    for number in (threads, threads + 1):
        found = read_kept(path, machine.id, number)
        assert found is not None
        assert found.ceilings.copy_gbps == number
    assert read_kept(path, machine.id, threads + 2) is None
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 2)
    ran = lbench("profile", "sdpa-math", "--device", "cpu", "--seq-len", "64", "--json")
    assert f"ceilings.csv: two are measured on {threads + 2} threads" in ran.err


def test_a_file_that_is_not_of_ceilings_is_refused_and_left(tmp_path: Path, machine: Machine) -> None:
    path = tmp_path / "speed.csv"
    path.write_text("case_id,median_ms\na,1\n")
    for use in (lambda: read_kept(path, machine.id), lambda: keep(path, SOME, machine)):
        with pytest.raises(UsageError, match=r"speed.csv is not a file of `lbench ceilings`"):
            use()
    assert path.read_text() == "case_id,median_ms\na,1\n"
    keep(tmp_path / "mine.csv", SOME, machine)
    text = (tmp_path / "mine.csv").read_text()
    (tmp_path / "mine.csv").write_text(text.replace("4233.25", "many"))
    with pytest.raises(UsageError, match=r"its row of .* is no row"):
        read_kept(tmp_path / "mine.csv", machine.id)
    (tmp_path / "file").write_text("")
    with pytest.raises(LbenchError, match=r"cannot write .*; give another --out"):
        keep(tmp_path / "file" / "ceilings.csv", SOME, machine)


def test_the_kind_of_device_names_the_folder(machine: Machine) -> None:
    assert kept_path(machine) == Path("results/cpu/ceilings.csv")


@pytest.mark.parametrize(
    ("files", "size"),
    [
        ({"index2": ("2", "1024K")}, 2**20),
        ({"index0": ("1", "32K"), "index2": ("2", "2M"), "index3": ("3", "32M")}, 2**21),
        ({"index0": ("1", "32K")}, 0),
        ({"index2": ("2", "")}, 0),
        ({}, 0),
    ],
)
def test_the_l2_of_a_core(tmp_path: Path, files: dict[str, tuple[str, str]], size: int) -> None:
    for name, (level, text) in files.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "level").write_text(level + "\n")
        (tmp_path / name / "size").write_text(text + "\n")
    assert cpu_l2_bytes(tmp_path) == size


@pytest.mark.slow
def test_the_command_measures_every_ceiling_of_this_cpu_once(
    lbench: Lbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: Machine
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(quiet_ceilings, "contradictions", lambda *_: [])  # a busy machine has some
    first = lbench("ceilings", "--device", "cpu", "--json")
    assert first.code == 0
    assert first.err.startswith("measuring ")
    again = lbench("ceilings", "--device", "cpu", "--json")
    assert "--fresh measures again" in again.err
    measured, kept = json.loads(first.out), json.loads(again.out)
    assert measured["time_utc"] == kept["time_utc"]
    assert kept["kept"] == "results/cpu/ceilings.csv"
    assert kept["copy_gbps"] == pytest.approx(measured["copy_gbps"], rel=1e-4)
    screen = lbench("ceilings", "--device", "cpu")
    assert re.search(r" \d+ threads?\b", screen.out.splitlines()[0])
    assert "copy_gbps" in screen.out
    assert lbench("ceilings", "--device", "tpu").code == 2
    found = read_kept(kept_path(machine), machine.id)
    assert found is not None
    cells = as_row(found.ceilings)
    note = bool(found.ceilings.note)
    blank = {name for name, cell in cells.items() if not cell}
    assert blank - {"l2_gbps", "l2_mib"} == {"tf32_tflops", "note"} - ({"note"} if note else set())
    assert ("l2_gbps" in blank) == ("l2_mib" in blank) == note
    for name in ("copy_gbps", "read_gbps", "write_gbps"):
        assert 0.1 < float(cells[name]) < 2000
    assert found.ceilings.launch_us is not None
    assert 0.05 < found.ceilings.launch_us < 1000
    assert found.ceilings.threads >= 1


READS = """
import numpy, torch
from lightning_bench.measure.device.read_kernel import read_kernel
source = torch.arange(5 * 16, dtype=torch.float32)
sums = torch.empty(3 * 16)
read_kernel[(3,)](source, sums, 5, 4, BLOCK=16)
blocks = source.view(5, 16)
wanted = torch.stack([sum(blocks[(p + 3 * t) % 5] for t in range(4)) for p in range(3)])
assert torch.equal(sums.view(3, 16), wanted), sums
"""


@pytest.mark.slow
def test_the_reading_kernel_reads_what_it_counts() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", READS], env=environment, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr


def test_the_reading_kernel_bypasses_the_l1_in_sixteen_bytes_per_thread() -> None:
    """As compiled for a Hopper GPU: 16-byte loads that are cached at the L2 alone."""
    code = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from lightning_bench.measure.device.read_kernel import read_kernel
names = dict(source_ptr="*fp32", sums_ptr="*fp32", blocks="i32", turns="i32", BLOCK="constexpr")
source = ASTSource(read_kernel, names, {"BLOCK": 4096}, {(0,): [["tt.divisibility", 16]]})
print(triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"])
"""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
    loads = [line for line in done.stdout.splitlines() if "ld.global" in line]
    assert loads
    assert all(".cg" in line and ".v4" in line for line in loads)


STREAMS = """
import torch
from lightning_bench.measure.device.mix_kernel import mix_kernel
for reads, writes in ((3, 1), (4, 3), (1, 0), (0, 1)):
    before = torch.randn((reads + writes) * 128)
    memory = before.clone()
    mix_kernel[(2,)](memory, 128, READS=reads, WRITES=writes, BLOCK=64)
    total = torch.ones(128)
    for array in before.view(-1, 128)[:reads]:
        total += array
    wanted = torch.cat([before.view(-1, 128)[:reads], total.expand(writes, 128)])
    assert torch.equal(memory.view(-1, 128), wanted), (reads, writes)
"""


@pytest.mark.slow
def test_the_streaming_kernel_reads_and_writes_what_its_mix_says() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", STREAMS], env=environment, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_streaming_kernel_moves_sixteen_bytes_per_thread() -> None:
    """As compiled for a Hopper GPU: all of its traffic and no other."""
    code = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from lightning_bench.measure.device.mix_kernel import mix_kernel
names = dict(arrays_ptr="*fp32", elements="i32", READS="constexpr", WRITES="constexpr", BLOCK="constexpr")
aligned = {(0,): [["tt.divisibility", 16]], (1,): [["tt.divisibility", 16]]}
source = ASTSource(mix_kernel, names, {"READS": 4, "WRITES": 3, "BLOCK": 1024}, aligned)
print(triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4}).asm["ptx"])
"""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
    moves = re.findall(r"(ld|st)\.global\.(\S+)", done.stdout)
    # 1024 elements on 128 threads are two moves of four each.
    assert Counter(moves) == {("ld", "v4.b32"): 2 * 4, ("st", "v4.b32"): 2 * 3}
