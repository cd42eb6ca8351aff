"""The peak rates of a device: bandwidths, matmul rates and the cost of a launch, measured on random data.

Every rate is that of the best of several runs: a ceiling is what can be reached, not what is usual.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from lightning_bench.case import Device, Dtype
from lightning_bench.machine.ceilings import Ceilings, DeviceCeilings
from lightning_bench.measure.device.best_time import best_ms
from lightning_bench.providers.dtypes import torch_dtype

# The tensors are far larger than any cache on a GPU; on a CPU, large enough to leave most of them.
_COPY_BYTES: dict[Device, int] = {"cuda": 2**30, "cpu": 2**26}
_MATMUL_SIZE: dict[Device, int] = {"cuda": 8192, "cpu": 768}
# A CPU without instructions for a dtype takes a second for a large product, at the rate of this small one.
_TRIAL_SIZE = 256
_LONGEST_MATMUL_MS = 100.0

_READ_BLOCK = 4096
_PROGRAMS_PER_SM = 8
# Bytes that the programs read from the L2 in total, so that the launch is a negligible part of the time.
_L2_BYTES = 2**33
# This share of the L2 is used: it is two halves on large GPUs, each of which may hold a copy of a line.
_L2_SHARE = 4

_LAUNCHES = 1000


def measure_ceilings(device: Device, dtype: Dtype) -> Ceilings:
    """Measure the bandwidth of a copy and the matmul rate of a dtype, for the rows of the same run."""
    return Ceilings(
        gbps=_copy_gbps(device),
        tflops=_matmul_tflops(device, torch_dtype(dtype), tf32=True),
        l2_bytes=_l2_bytes(device) if device == "cuda" else 0,
    )


def measure_device(device: Device) -> DeviceCeilings:
    """Measure every ceiling of the device. What cannot be measured is None, and `note` says why."""
    cuda = device == "cuda"
    l2_bytes = _l2_bytes(device)
    read: float | None
    l2: float | None
    note = ""
    if cuda:
        try:
            read, l2 = _gpu_read_gbps(), _gpu_l2_gbps(l2_bytes)
        except ImportError as error:
            read = l2 = None
            note = f"read and L2 bandwidth need triton ({error})"
    else:
        read = _cpu_read_gbps()
        l2 = _cpu_l2_gbps(l2_bytes) if l2_bytes else None
        note = "" if l2_bytes else "the system does not say how large the L2 is"
    launch_us, call_us = _launch_us(device)
    return DeviceCeilings(
        copy_gbps=_copy_gbps(device),
        read_gbps=read,
        write_gbps=_write_gbps(device),
        l2_gbps=l2,
        l2_mib=l2_bytes / 2**20 if l2_bytes else None,
        fp32_tflops=_matmul_tflops(device, torch.float32, tf32=False),
        tf32_tflops=_matmul_tflops(device, torch.float32, tf32=True) if cuda else None,
        fp16_tflops=_matmul_tflops(device, torch.float16, tf32=True),
        bf16_tflops=_matmul_tflops(device, torch.bfloat16, tf32=True),
        launch_us=launch_us,
        call_us=call_us,
        threads=torch.get_num_threads(),
        note=note,
    )


def _copy_gbps(device: Device) -> float:
    source = _random(_COPY_BYTES[device], device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / best_ms(lambda: target.copy_(source), 10, device) / 1e6


def _write_gbps(device: Device) -> float:
    target = _random(_COPY_BYTES[device], device)
    # cudaMemset and a kernel: whichever writes faster.
    ms = min(best_ms(target.zero_, 10, device), best_ms(lambda: target.fill_(1.0), 10, device))
    return target.nbytes / ms / 1e6


def _gpu_read_gbps() -> float:
    source = _random(_COPY_BYTES["cuda"], "cuda")
    return _read_gbps(source, source.nbytes)


def _gpu_l2_gbps(l2_bytes: int) -> float:
    return _read_gbps(_random(l2_bytes // _L2_SHARE, "cuda"), _L2_BYTES)


def _read_gbps(source: Tensor, total_bytes: int) -> float:
    """Return the bandwidth in GB/s of reading `total_bytes`, repeatedly from `source` if that is smaller."""
    from lightning_bench.measure.device.read_kernel import read_kernel

    programs = _PROGRAMS_PER_SM * torch.cuda.get_device_properties(0).multi_processor_count
    blocks = source.numel() // _READ_BLOCK
    turns = total_bytes // (programs * _READ_BLOCK * 4)
    sums = torch.empty(programs * _READ_BLOCK, device="cuda")
    ms = best_ms(lambda: read_kernel[(programs,)](source, sums, blocks, turns, BLOCK=_READ_BLOCK), 10, "cuda")
    return turns * programs * _READ_BLOCK * 4 / ms / 1e6


def _cpu_read_gbps() -> float:
    source = _random(_COPY_BYTES["cpu"], "cpu")
    return source.nbytes / best_ms(source.sum, 20, "cpu") / 1e6


def _cpu_l2_gbps(l2_bytes: int) -> float:
    """Return the rate of a copy whose source and target fill half of the L2 of each thread's core."""
    source = _random(l2_bytes // 4 * torch.get_num_threads(), "cpu")
    target = torch.empty_like(source)
    return 2 * source.nbytes / best_ms(lambda: target.copy_(source), 200, "cpu") / 1e6


def _matmul_tflops(device: Device, dtype: torch.dtype, *, tf32: bool) -> float:
    """Return the rate of a square matmul, TFLOP/s.

    The ceiling of fp32 is that of TF32: fp32 kernels may be exact through three TF32 products.
    """
    size = _MATMUL_SIZE[device]
    if device == "cpu":
        if size > _TRIAL_SIZE:
            ms = _matmul_ms(_TRIAL_SIZE, device, dtype)
            if ms * (size / _TRIAL_SIZE) ** 3 > _LONGEST_MATMUL_MS:
                return 2 * _TRIAL_SIZE**3 / ms / 1e9
        return 2 * size**3 / _matmul_ms(size, device, dtype) / 1e9
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        return 2 * size**3 / _matmul_ms(size, device, dtype) / 1e9
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _matmul_ms(size: int, device: Device, dtype: torch.dtype) -> float:
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return best_ms(lambda: a @ b, 5, device)


def _launch_us(device: Device) -> tuple[float, float]:
    """Return (µs of one of many additions to a single number, µs of one addition and the wait for it)."""
    number = torch.zeros(1, device=device)

    def many() -> float:
        begin = time.perf_counter()
        for _ in range(_LAUNCHES):
            number.add_(1.0)
        _wait(device)
        return (time.perf_counter() - begin) * 1e6 / _LAUNCHES

    def single() -> float:
        begin = time.perf_counter()
        number.add_(1.0)
        _wait(device)
        return (time.perf_counter() - begin) * 1e6

    many()
    return min(many() for _ in range(5)), statistics.median(single() for _ in range(_LAUNCHES))


def _l2_bytes(device: Device) -> int:
    if device == "cuda":
        return int(torch.cuda.get_device_properties(0).L2_cache_size)
    return cpu_l2_bytes()


def cpu_l2_bytes(cache: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int:
    """Return the bytes of the L2 of one core, as Linux reports them; 0 if it does not."""
    units: dict[str, int] = {"K": 2**10, "M": 2**20}
    for index in sorted(cache.glob("index*")):
        try:
            if (index / "level").read_text().strip() == "2":
                text = (index / "size").read_text().strip()
                return int(text[:-1]) * units[text[-1]]
        except (OSError, ValueError, KeyError, IndexError):
            return 0
    return 0


def _random(size_bytes: int, device: Literal["cuda", "cpu"]) -> Tensor:
    return torch.randn(size_bytes // 4, device=device)


def _wait(device: Device) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
