"""Machine: what a row was measured on, found without importing torch unless only torch can tell."""

from __future__ import annotations

import json
import os
import platform
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import psutil

from lightning_bench import __version__
from lightning_bench.case import Device
from lightning_bench.machine.git import harness_commit
from lightning_bench.machine.gpu import BoardLimits, Gpu, cuda_gpu, gpu_limits, why_no_gpu
from lightning_bench.machine.identity import digits, host_identity, identity
from lightning_bench.machine.software import torch_cuda, version_of


@dataclass(frozen=True)
class Machine:
    """The device and the software that a figure depends on; text that is not known here is `""`."""

    device: Device
    device_name: str  # the GPU's product name, or the CPU's model
    capability: str  # "9.0"; "" on cpu
    driver: str  # NVIDIA driver; "" on cpu
    cuda: str  # CUDA version that torch was built for; "" for a CPU build
    torch: str
    triton: str
    python: str
    cpu: str  # CPU model
    cores: int  # logical cores that this process may use
    memory_gib: float  # host memory
    os: str
    harness_version: str
    harness_commit: str  # 12 hex digits, followed by "-dirty" if the code differs from that commit
    host: str = ""  # of this host, as `identity` names it
    gpu_uuid: str = ""  # of the GPU or the MIG slice, as `identity` names it; "" on cpu
    power_limit_w: float | None = None
    sm_clock_limit_mhz: float | None = None
    memory_clock_limit_mhz: float | None = None
    mig: str = ""  # profile of the MIG slice, "off" for a whole GPU; "" on cpu
    ecc: str = ""  # "on" or "off"; "" on cpu and where the GPU does not say

    @cached_property
    def id(self) -> str:
        """Twelve hex digits that identify the kind of device and the software below the harness."""
        parts = (
            self.device,
            self.device_name,
            self.capability,
            self.driver,
            self.cuda,
            self.torch,
            self.triton,
            self.python,
        )
        return digits(json.dumps(parts))

    @property
    def slug(self) -> str:
        """The folder of results/ for this device: `h200`, `a100-sxm4-80gb`, `rtx-4090`, `cpu`."""
        if self.device == "cpu":
            return "cpu"
        name = re.sub(r"\b(nvidia|geforce|tesla)\b", " ", self.device_name.lower())
        return re.sub(r"[^a-z0-9]+", "-", name).strip("-") or "gpu"


def detect_device() -> Device:
    """Return `cuda` if a CUDA build of torch and a GPU that it may use are both here, else `cpu`."""
    return "cpu" if why_no_gpu() else "cuda"


def describe_machine(device: Device, *, elsewhere: bool = False, gpu: Gpu | None = None) -> Machine:
    """Describe this machine for cases on `device`; `cuda` is `gpu`, or the one that CUDA calls 0 here.

    Raises UsageError, with the reason, if `device` is `cuda` and there is none. With `elsewhere` the GPU is
    then one of another machine, of which nothing is known: enough for a plan.
    """
    cpu = _cpu_model()
    if gpu is None and device == "cuda" and not (elsewhere and why_no_gpu()):
        gpu = cuda_gpu()
    limits = gpu_limits(gpu) if gpu else BoardLimits()
    return Machine(
        device=device,
        device_name=gpu.name if gpu else cpu if device == "cpu" else "",
        capability=gpu.capability if gpu else "",
        driver=gpu.driver if gpu else "",
        cuda=torch_cuda(),
        torch=version_of("torch"),
        triton=version_of("triton") or version_of("pytorch-triton"),
        python=platform.python_version(),
        cpu=cpu,
        cores=_usable_cores(),
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        os=platform.platform(),
        harness_version=__version__,
        harness_commit=harness_commit(),
        host=host_identity(),
        gpu_uuid=identity(gpu.uuid) if gpu else "",
        power_limit_w=limits.power_w,
        sm_clock_limit_mhz=limits.sm_clock_mhz,
        memory_clock_limit_mhz=limits.memory_clock_mhz,
        mig=gpu.mig if gpu else "",
        ecc=limits.ecc,
    )


def _cpu_model() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
