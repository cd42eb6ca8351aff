"""Machine: what a row was measured on, found without importing torch unless torch alone can tell."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from lightning_bench import __version__
from lightning_bench.case import Device
from lightning_bench.errors import UsageError

_PACKAGE_PARENT = Path(__file__).resolve().parents[2]
# Set by git for its hooks: they would point our questions at another repository.
_GIT_REDIRECTS = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")


@dataclass(frozen=True)
class Machine:
    """The device and the software that a figure depends on; text that is not known here is ``""``."""

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
    harness_commit: str  # 12 hex digits, "-dirty" behind them when the code differs from that commit

    @property
    def id(self) -> str:
        """Twelve hex digits that name the device and the software under the harness, not the harness itself.

        They open the SHA-256 digest, save where they would read as a number (about one machine in a
        hundred), which a spreadsheet or pandas would mangle: then the first twelve that do not.
        """
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
        digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        windows = (digest[start : start + 12] for start in range(len(digest) - 11))
        return next((window for window in windows if set(window) & set("abcdf")), digest[:12])

    @property
    def slug(self) -> str:
        """The folder of results/ for this device: ``h200``, ``a100-sxm4-80gb``, ``rtx-4090``, ``cpu``."""
        if self.device == "cpu":
            return "cpu"
        name = re.sub(r"\b(nvidia|geforce|tesla)\b", " ", self.device_name.lower())
        return re.sub(r"[^a-z0-9]+", "-", name).strip("-") or "gpu"


def detect_device() -> Device:
    """Say ``cuda`` where a CUDA build of torch and a GPU that it may use are both here, else ``cpu``."""
    return "cpu" if isinstance(_find_gpu(), str) else "cuda"


def describe_machine(device: Device) -> Machine:
    """Describe this machine for cases on ``device``; ``cuda`` is the GPU that CUDA calls 0 in this process.

    Raises UsageError, with the reason, if ``device`` is ``cuda`` and there is none.
    """
    cpu = _cpu_model()
    gpu = _Gpu(name=cpu, capability="", driver="")
    if device == "cuda":
        found = _find_gpu()
        if isinstance(found, str):
            raise UsageError(f"no CUDA device: {found}; mend that, or choose the device cpu")
        gpu = found if found.name else _ask_torch(found)
    return Machine(
        device=device,
        device_name=gpu.name,
        capability=gpu.capability,
        driver=gpu.driver,
        cuda=_torch_cuda() or "",
        torch=_version("torch"),
        triton=_version("triton") or _version("pytorch-triton"),
        python=platform.python_version(),
        cpu=cpu,
        cores=_usable_cores(),
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        os=platform.platform(),
        harness_version=__version__,
        harness_commit=harness_commit(),
    )


def harness_commit(root: Path = _PACKAGE_PARENT) -> str:
    """Name the commit of the harness in the checkout ``root``, or ``""`` where that cannot be known.

    ``LBENCH_COMMIT`` goes before all else (a copy without ``.git`` gives it). ``-dirty`` follows when tracked
    files differ; results/ and reports/ do not count, since writing rows there changes no code.
    """
    if given := os.environ.get("LBENCH_COMMIT", "").strip():
        return given
    if not _is_our_project(root):
        return ""
    top = _git(root, "rev-parse", "--show-toplevel")
    if not top or Path(top).resolve() != root.resolve():
        return ""
    commit = _git(root, "rev-parse", "--short=12", "HEAD")
    changes = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", ":!results", ":!reports")
    if not commit or changes is None:
        return ""
    return f"{commit}-dirty" if changes else commit


@dataclass(frozen=True)
class _Gpu:
    name: str  # "" where NVML sees a GPU but only torch can tell which one CUDA will use
    capability: str
    driver: str


def _find_gpu() -> _Gpu | str:
    """Find the GPU that CUDA calls 0 in this process, or say why there is none."""
    with _nvml() as nvml:
        if isinstance(nvml, str):
            return f"no NVIDIA driver answers here ({nvml})"
        try:
            count = nvml.nvmlDeviceGetCount()
            handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
            if not handles:
                return "the NVIDIA driver sees no GPU"
            if reason := _why_torch_cannot():
                return reason
            chosen = _visible(nvml, handles)
            if isinstance(chosen, str):
                return chosen
            driver = _text(nvml.nvmlSystemGetDriverVersion())
            if chosen is None:
                return _Gpu(name="", capability="", driver=driver)
            major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handles[chosen])
            return _Gpu(_text(nvml.nvmlDeviceGetName(handles[chosen])), f"{major}.{minor}", driver)
        except nvml.NVMLError as error:
            return f"the NVIDIA driver does not answer ({error})"


def _visible(nvml: Any, handles: list[Any]) -> int | str | None:
    """Find the index of CUDA's first GPU, why there is none, or None where only torch can tell."""
    variable = os.environ.get("CUDA_VISIBLE_DEVICES")
    first = "0" if variable is None else variable.split(",")[0].strip()
    hidden = f"CUDA_VISIBLE_DEVICES={variable!r} hides every GPU"
    if first.startswith("MIG-"):
        return None
    if first.startswith("GPU-"):
        uuids = [_text(nvml.nvmlDeviceGetUUID(handle)) for handle in handles]
        index = next((number for number, uuid in enumerate(uuids) if uuid.startswith(first)), len(handles))
    else:
        index = int(first) if first.isdecimal() else len(handles)
        # CUDA counts from the fastest GPU unless told otherwise, NVML by the bus.
        by_bus = os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
        alike = len({_text(nvml.nvmlDeviceGetName(handle)) for handle in handles}) == 1
        if index < len(handles) and not (by_bus or alike):
            return None
    if index >= len(handles):
        return hidden
    return None if _is_sliced(nvml, handles[index]) else index


def _is_sliced(nvml: Any, handle: Any) -> bool:
    """Whether the GPU is in MIG mode, where CUDA sees a slice of it under a name of its own."""
    try:
        current, _pending = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError:  # most GPUs know no MIG
        return False
    return bool(current)


def _ask_torch(gpu: _Gpu) -> _Gpu:
    """Fill in what NVML cannot tell: which of several unlike GPUs, or which MIG slice, CUDA calls 0."""
    import torch

    if not torch.cuda.is_available():
        variable = os.environ.get("CUDA_VISIBLE_DEVICES")
        raise UsageError(
            f"no CUDA device: torch sees none (CUDA_VISIBLE_DEVICES is {variable!r}); "
            "mend that, or choose the device cpu"
        )
    major, minor = torch.cuda.get_device_capability(0)
    return replace(gpu, name=torch.cuda.get_device_name(0), capability=f"{major}.{minor}")


@contextmanager
def _nvml() -> Iterator[Any]:
    """Yield the NVML module, initialised, or the reason why it cannot be used."""
    try:
        import pynvml
    except ImportError:
        yield "the package nvidia-ml-py is not installed"
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        yield f"NVML: {error}"
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def _why_torch_cannot() -> str:
    version = _version("torch")
    if _torch_cuda():
        return ""
    if not version:
        return "torch is not installed"
    return f"torch {version} is a build without CUDA"


def _torch_cuda() -> str | None:
    """Read from its version.py, without importing it, which CUDA the installed torch was built for."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    try:
        text = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8")
        found = re.search(r"^cuda\b[^=\n]*=\s*(.+)$", text, re.MULTILINE)
        value = ast.literal_eval(found[1]) if found else None
    except (OSError, ValueError, SyntaxError):
        return None
    return value if isinstance(value, str) else None


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


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


def _is_our_project(root: Path) -> bool:
    """Whether ``root`` is a checkout of lightning-bench: a site-packages inside some checkout is not."""
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    metadata = project.get("project")
    return isinstance(metadata, dict) and metadata.get("name") == "lightning-bench"


def _git(root: Path, *arguments: str) -> str | None:
    """Run git in ``root`` for its output, stripped; None where git is missing, refuses or hangs."""
    environment = {name: value for name, value in os.environ.items() if name not in _GIT_REDIRECTS}
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", *arguments],
            cwd=root,
            env=environment,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _text(value: str | bytes) -> str:
    """NVML answers in str or, in old bindings, in bytes."""
    return value.decode() if isinstance(value, bytes) else value
