"""Machine: ids, folder names, what is found on this machine, on GPUs played by a fake NVML, and in git."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from lightning_bench import __version__, machine
from lightning_bench.errors import UsageError
from lightning_bench.machine import Machine, describe_machine, detect_device, harness_commit


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
        assert all(set(one) & set("abcdf") and len(one) == 12 for one in ids)
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
        real = machine.importlib.metadata.version

        def version(name: str) -> str:
            if name in ("torch", "triton", "pytorch-triton"):
                raise machine.importlib.metadata.PackageNotFoundError(name)
            return real(name)

        monkeypatch.setattr(machine.importlib.metadata, "version", version)
        monkeypatch.setattr(machine.importlib.util, "find_spec", lambda name: None)
        found = describe_machine("cpu")
        assert (found.torch, found.triton, found.cuda) == ("", "", "")
        assert detect_device() == "cpu"

    def test_cuda_is_refused_with_a_reason_or_found(self) -> None:
        if detect_device() == "cuda":
            assert describe_machine("cuda").capability
            return
        with pytest.raises(UsageError, match=r"no CUDA device: .+ choose the device cpu"):
            describe_machine("cuda")


class NvmlError(Exception):
    pass


class FakeNvml(ModuleType):
    """NVML with the GPUs of a list of names; a handle is an index, the uuid of GPU 1 is GPU-1aaa."""

    NVMLError = NvmlError

    def __init__(self, names: list[str], *, mig: bool = False, driver: bool = True) -> None:
        super().__init__("pynvml")
        self.names, self.mig, self.driver, self.open = names, mig, driver, 0

    def nvmlInit(self) -> None:  # noqa: N802
        if not self.driver:
            raise NvmlError("Driver Not Loaded")
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.names)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetName(self, handle: int) -> bytes:  # noqa: N802
        return self.names[handle].encode()  # as old bindings do

    def nvmlDeviceGetUUID(self, handle: int) -> str:  # noqa: N802
        return f"GPU-{handle}aaa"

    def nvmlDeviceGetCudaComputeCapability(self, handle: int) -> tuple[int, int]:  # noqa: N802
        return (9, 0) if "H" in self.names[handle] else (8, 9)

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return "570.1"

    def nvmlDeviceGetMigMode(self, handle: int) -> tuple[int, int]:  # noqa: N802
        if not self.mig:
            raise NvmlError("Not Supported")
        return 1, 0


H200, RTX = "NVIDIA H200", "NVIDIA GeForce RTX 4090"


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Play a machine with these GPUs, whose torch is a CUDA build unless told otherwise."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)

    def play(*names: str, cuda: str = "'12.8'", visible: str | None = None, **kind: Any) -> FakeNvml:
        (tmp_path / "version.py").write_text(
            f"__version__ = '2.8'\ncuda: Optional[str] = {cuda}\nhip = None\n"
        )
        spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
        monkeypatch.setattr(machine.importlib.util, "find_spec", lambda name: spec)
        fake = FakeNvml(list(names), **kind)
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        return fake

    return play


@pytest.fixture
def torch_sees(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Play what torch says of its first GPU."""

    def play(name: str | None) -> None:
        cuda = SimpleNamespace(
            is_available=lambda: name is not None,
            get_device_name=lambda index: name,
            get_device_capability=lambda index: (8, 9),
        )
        monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))

    return play


class TestGpus:
    def test_a_gpu(self, gpus: Any) -> None:
        fake = gpus(H200, H200)
        assert detect_device() == "cuda"
        found = describe_machine("cuda")
        assert (found.device_name, found.capability, found.driver) == (H200, "9.0", "570.1")
        assert (found.cuda, found.slug) == ("12.8", "h200")
        assert fake.open == 0

    def test_the_cpu_beside_a_gpu(self, gpus: Any) -> None:
        gpus(H200)
        found = describe_machine("cpu")
        assert (found.slug, found.capability, found.driver) == ("cpu", "", "")
        assert found.device_name == found.cpu

    @pytest.mark.parametrize(
        ("visible", "name"), [("1", RTX), (" 1 ,0", RTX), ("0", H200), ("GPU-1", RTX), ("GPU-0aaa", H200)]
    )
    def test_the_visible_one_counts(
        self, gpus: Any, monkeypatch: pytest.MonkeyPatch, visible: str, name: str
    ) -> None:
        gpus(H200, RTX, visible=visible)
        monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
        assert detect_device() == "cuda"
        assert describe_machine("cuda").device_name == name

    @pytest.mark.parametrize("visible", ["", "-1", "2", "NoDevFiles", "GPU-9", "-1,0"])
    def test_all_hidden(self, gpus: Any, visible: str) -> None:
        gpus(H200, H200, visible=visible)
        assert detect_device() == "cpu"
        with pytest.raises(UsageError, match=f"CUDA_VISIBLE_DEVICES='{visible}' hides every GPU"):
            describe_machine("cuda")

    def test_torch_without_cuda(self, gpus: Any) -> None:
        gpus(H200, cuda="None")
        assert detect_device() == "cpu"
        with pytest.raises(UsageError, match=r"torch .* is a build without CUDA"):
            describe_machine("cuda")

    def test_no_driver(self, gpus: Any) -> None:
        gpus(driver=False)
        assert detect_device() == "cpu"
        with pytest.raises(UsageError, match=r"no NVIDIA driver answers here \(NVML: Driver Not Loaded\)"):
            describe_machine("cuda")

    def test_no_nvml_package(self, gpus: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        gpus(H200)
        monkeypatch.setitem(sys.modules, "pynvml", None)
        with pytest.raises(UsageError, match="nvidia-ml-py is not installed"):
            describe_machine("cuda")

    def test_no_gpu_and_a_gpu_that_fails(self, gpus: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        gpus()
        with pytest.raises(UsageError, match="sees no GPU"):
            describe_machine("cuda")

        def lost(index: int) -> int:
            raise NvmlError("GPU is lost")

        fake = gpus(H200)
        monkeypatch.setattr(fake, "nvmlDeviceGetHandleByIndex", lost)
        assert detect_device() == "cpu"
        with pytest.raises(UsageError, match="GPU is lost"):
            describe_machine("cuda")
        assert fake.open == 0

    def test_unlike_gpus_and_slices_are_asked_of_torch(self, gpus: Any, torch_sees: Any) -> None:
        torch_sees(RTX)
        slices = {"mig": True}
        for names, played in (
            ((H200, RTX), {}),
            ((H200,), slices),
            ((H200,), {"visible": "MIG-1", **slices}),
        ):
            gpus(*names, **played)
            assert detect_device() == "cuda"
            found = describe_machine("cuda")
            assert (found.device_name, found.capability, found.driver) == (RTX, "8.9", "570.1")

    def test_torch_sees_none(self, gpus: Any, torch_sees: Any) -> None:
        gpus(H200, visible="MIG-none")
        torch_sees(None)
        with pytest.raises(UsageError, match=r"torch sees none .*'MIG-none'"):
            describe_machine("cuda")


class TestCommit:
    @pytest.fixture(autouse=True)
    def _own_git(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.delenv("LBENCH_COMMIT", raising=False)
        monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
        monkeypatch.setenv("GIT_CONFIG_SYSTEM", "/dev/null")

    @staticmethod
    def git(root: Path, *arguments: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
        command = ["git", *identity, *arguments]
        return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout.strip()

    @pytest.fixture
    def checkout(self, tmp_path: Path) -> Path:
        root = tmp_path / "checkout"
        (root / "results").mkdir(parents=True)
        (root / "pyproject.toml").write_text('[project]\nname = "lightning-bench"\n')
        (root / "code.py").write_text("one\n")
        (root / "results" / "speed.csv").write_text("one\n")
        self.git(root, "init", "-q")
        self.git(root, "add", "-A")
        self.git(root, "commit", "-q", "-m", "first")
        return root

    def test_clean_then_dirty_then_clean(self, checkout: Path) -> None:
        commit = self.git(checkout, "rev-parse", "HEAD")[:12]
        assert harness_commit(checkout) == commit
        (checkout / "new.py").write_text("untracked\n")
        assert harness_commit(checkout) == commit
        (checkout / "code.py").write_text("two\n")
        assert harness_commit(checkout) == f"{commit}-dirty"
        self.git(checkout, "add", "code.py")
        assert harness_commit(checkout) == f"{commit}-dirty"
        self.git(checkout, "commit", "-q", "-m", "second")
        assert harness_commit(checkout) == self.git(checkout, "rev-parse", "HEAD")[:12] != commit

    def test_rows_written_into_results_are_no_change_of_the_code(self, checkout: Path) -> None:
        (checkout / "results" / "speed.csv").write_text("two\n")
        assert not harness_commit(checkout).endswith("-dirty")

    def test_a_deleted_file_is_a_change(self, checkout: Path) -> None:
        (checkout / "code.py").unlink()
        assert harness_commit(checkout).endswith("-dirty")

    def test_only_the_top_of_our_own_checkout(self, checkout: Path) -> None:
        inside = checkout / ".venv" / "site-packages"
        inside.mkdir(parents=True)
        assert harness_commit(inside) == ""
        (inside / "pyproject.toml").write_text('[project]\nname = "lightning-bench"\n')
        assert harness_commit(inside) == ""
        (checkout / "pyproject.toml").write_text('[project]\nname = "other"\n')
        assert harness_commit(checkout) == ""
        (checkout / "pyproject.toml").write_text("not toml [")
        assert harness_commit(checkout) == ""

    def test_the_environment_names_it(self, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LBENCH_COMMIT", "feedfacef00d")
        assert harness_commit(checkout) == harness_commit(checkout.parent) == "feedfacef00d"
        monkeypatch.setenv("LBENCH_COMMIT", "")
        assert harness_commit(checkout) == self.git(checkout, "rev-parse", "HEAD")[:12]

    def test_a_git_hook_does_not_lead_astray(self, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        commit = harness_commit(checkout)
        monkeypatch.setenv("GIT_DIR", "/nowhere")
        monkeypatch.setenv("GIT_INDEX_FILE", "/nowhere/index")
        assert harness_commit(checkout) == commit != ""

    def test_no_git_no_commit_yet_no_folder(
        self, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        empty = tmp_path / "empty"
        empty.mkdir()
        (empty / "pyproject.toml").write_text('[project]\nname = "lightning-bench"\n')
        assert harness_commit(empty) == ""
        self.git(empty, "init", "-q")
        assert harness_commit(empty) == ""
        assert harness_commit(tmp_path / "none") == ""
        monkeypatch.setenv("PATH", str(empty))
        assert harness_commit(checkout) == ""


def test_a_machine_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().device = "cpu"  # type: ignore[misc]
