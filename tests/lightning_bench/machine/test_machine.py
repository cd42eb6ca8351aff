"""Machine: ids, folder names, and what is found on this machine."""

import dataclasses
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from typing import Any

import pytest

from lightning_bench import __version__
from lightning_bench.errors import UsageError
from lightning_bench.machine import Machine, describe_machine, detect_device


def make(**changes: Any) -> Machine:
    values: dict[str, Any] = {
        "device": "cuda",
        "device_name": "NVIDIA H200",
        "capability": "9.0",
        "driver": "570.124.06",
        "cuda": "12.8",
        "torch": "2.8.0+cu128",
        "triton": "3.4.0",
        "python": "3.11.7",
        "cpu": "Xeon",
        "cores": 16,
        "memory_gib": 128.0,
        "os": "Linux",
        "harness_version": "0.1.0",
        "harness_commit": "0123456789ab",
    }
    return Machine(**(values | changes))


class TestId:
    def test_twelve_hex_digits_that_stay(self) -> None:
        assert len(make().id) == 12
        assert set(make().id) <= set("0123456789abcdef")
        assert make().id == make().id == "06910689946b"  # rows on disk are known by it

    @pytest.mark.parametrize(
        "name", ["device", "device_name", "capability", "driver", "cuda", "torch", "triton", "python"]
    )
    def test_it_depends_on(self, name: str) -> None:
        assert make(**{name: "cpu"}).id != make().id

    @pytest.mark.parametrize(
        "change",
        [
            {"harness_commit": "x"},
            {"harness_version": "9"},
            {"cores": 1},
            {"memory_gib": 1.0},
            {"os": "x"},
            {"cpu": "x"},
        ],
    )
    def test_it_does_not_depend_on(self, change: dict[str, Any]) -> None:
        assert make(**change).id == make().id

    def test_it_never_reads_as_a_number(self) -> None:
        ids = [make(driver=str(number)).id for number in range(3000)]
        assert all(set(text) & set("abcdf") and len(text) == 12 for text in ids)
        assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-80GB", "a100-sxm4-80gb"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA H100 80GB HBM3", "h100-80gb-hbm3"),
        ("Tesla V100-SXM2-16GB", "v100-sxm2-16gb"),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "a100-sxm4-40gb-mig-1g-5gb"),
        ("NVIDIA", "gpu"),
        ("../..", "gpu"),
    ],
)
def test_slug(name: str, slug: str) -> None:
    assert make(device_name=name).slug == slug
    assert make(device="cpu", device_name=name).slug == "cpu"


class TestHere:
    def test_cpu(self) -> None:
        found = describe_machine("cpu")
        assert (found.device, found.slug, found.capability, found.driver) == ("cpu", "cpu", "", "")
        assert found.device_name == found.cpu != ""
        assert found.python == ".".join(map(str, sys.version_info[:3]))
        assert 1 <= found.cores <= (os.cpu_count() or 1)
        assert found.memory_gib > 0.1
        assert found.os
        assert found.harness_version == __version__
        assert describe_machine("cpu").id == found.id

    def test_versions_are_those_that_torch_gives(self) -> None:
        torch = pytest.importorskip("torch")
        found = describe_machine("cpu")
        assert found.torch.split("+")[0] == torch.__version__.split("+")[0]  # wheels of PyPI hide their CUDA
        assert found.cuda == (torch.version.cuda or "")

    def test_torch_is_not_imported(self) -> None:
        code = (
            "import sys; from lightning_bench.machine import *;"
            "detect_device(); describe_machine('cpu'); print('torch' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "False"

    def test_without_torch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = importlib.metadata.version

        def version(name: str) -> str:
            if name in ("torch", "triton", "pytorch-triton"):
                raise importlib.metadata.PackageNotFoundError(name)
            return real(name)

        monkeypatch.setattr(importlib.metadata, "version", version)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        found = describe_machine("cpu")
        assert (found.torch, found.triton, found.cuda) == ("", "", "")
        assert detect_device() == "cpu"

    def test_cuda_is_refused_with_a_reason_or_found(self) -> None:
        if detect_device() == "cuda":
            assert describe_machine("cuda").capability
            return
        with pytest.raises(UsageError, match=r"no CUDA device: .+ choose the device cpu"):
            describe_machine("cuda")


def test_a_machine_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().device = "cpu"  # type: ignore[misc]
