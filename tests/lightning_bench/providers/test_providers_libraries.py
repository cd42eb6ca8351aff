"""What providers find out about a library before they run it, from files as installers leave them."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
from importlib import metadata
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import torch

from lightning_bench.case import Shape
from lightning_bench.errors import Unavailable
from lightning_bench.providers import flash2, flash4, xformers
from lightning_bench.providers.registry.packages import installed_version
from lightning_bench.providers.xformers import CUDA12_PACKAGE, CUDA12_RUNTIME

without_flash = pytest.mark.skipif(
    bool(
        installed_version("flash-attn") or installed_version("flash-attn-4") or installed_version("xformers")
    ),
    reason="a real one is installed here",
)


def wheel(site: Path, dist: str, files: dict[str, str]) -> None:
    """Install ``files`` on ``site`` as distribution ``dist``, with a RECORD."""
    folder = site / f"{dist.replace('-', '_')}-1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.0\n")
    lines = []
    for name, text in files.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(text)
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(text)}\n")
    (folder / "RECORD").write_text("".join(lines))


FLASH4 = {"flash_attn/cute/__init__.py": "", "flash_attn/cute/interface.py": "version = 4\n"}
FLASH2 = {"flash_attn/__init__.py": "", **FLASH4, "flash_attn/cute/interface.py": "version = 2\n"}


@without_flash
def test_flash4_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    wheel(tmp_path, "flash-attn-4", FLASH4)
    assert flash4.Flash4().unavailable("cuda") is None


@without_flash
def test_flash4_after_flash_attn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    wheel(tmp_path, "flash-attn", FLASH2)
    wheel(tmp_path, "flash-attn-4", FLASH4)
    assert flash4.Flash4().unavailable("cuda") is None


@without_flash
def test_flash4_overwritten_by_flash_attn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    wheel(tmp_path, "flash-attn-4", FLASH4)
    wheel(tmp_path, "flash-attn", FLASH2)
    assert "the older copy inside flash-attn" in (flash4.Flash4().unavailable("cuda") or "")


@without_flash
def test_flash4_hidden_by_flash_attn_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for site, dist, files in (("a", "flash-attn-4", FLASH4), ("b", "flash-attn", FLASH2)):
        monkeypatch.syspath_prepend(str(tmp_path / site))
        wheel(tmp_path / site, dist, files)
    assert "the older copy inside flash-attn" in (flash4.Flash4().unavailable("cuda") or "")


@without_flash
def test_flash4_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (flash4.Flash4().unavailable("cuda") or "").startswith(
        "flash-attn-4 is not installed; pip install"
    )
    assert flash4.shadowed() is None


def test_flash2_built_dims(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    source, library = tmp_path / "x.c", tmp_path / "x.so"
    source.write_text("\n".join(f"void {flash2._SYMBOL.format(dim)}(void) {{}}" for dim in (64, 128)))
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    assert flash2.built_dims(str(library)) == {64, 128}


@pytest.mark.parametrize(
    ("dim", "runs"), [(32, False), (40, True), (64, True), (96, False), (128, True), (256, False)]
)
def test_flash2_refuses_what_was_not_built(dim: int, runs: bool) -> None:
    provider = flash2.Flash2()
    shape = Shape(1, 2, 128, dim, dim, "bf16", "cuda")
    assert provider.unsupported(shape, "fwd") is None
    provider._built_dims = frozenset({64, 128})
    reason = provider.unsupported(shape, "fwd")
    said = f"this build of flash-attn has kernels for head_dim 64, 128 only, not {dim}"
    assert reason == (None if runs else said)


def test_cuda12_runtime_from_its_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    name = f"nvidia/cuda_runtime/lib/{CUDA12_RUNTIME}"
    wheel(tmp_path, CUDA12_PACKAGE, {name: "no library"})
    assert xformers.cuda12_runtime() == tmp_path / name

    def unknown(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(xformers.metadata, "files", unknown)
    found = ModuleSpec("nvidia", None, is_package=True)
    found.submodule_search_locations = [str(tmp_path / "nvidia")]  # a real one may be here too
    monkeypatch.setattr(xformers, "find_spec", {"nvidia": found}.get)
    assert xformers.cuda12_runtime() == tmp_path / name


def test_cuda12_runtime_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xformers, "cuda12_runtime", lambda: None)
    monkeypatch.setattr(xformers, "CUDA12_RUNTIME", "libno-such-runtime.so.12")
    with pytest.raises(Unavailable, match=f"pip install {CUDA12_PACKAGE}"):
        xformers.provide_cuda12_runtime()


@without_flash
@pytest.mark.parametrize(
    ("built", "running", "needed"),
    [(1208, "13.0", True), (1208, "12.8", False), (1300, "13.0", False), (None, "13.0", False)],
)
def test_built_for_cuda12(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, built: int | None, running: str, needed: bool
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    wheel(
        tmp_path,
        "xformers",
        {"xformers/__init__.py": "", "xformers/cpp_lib.json": json.dumps({"version": {"cuda": built}})},
    )
    monkeypatch.setattr(torch.version, "cuda", running)
    assert xformers.built_for_cuda12() is needed


@without_flash
def test_xformers_beside_flash_attn_4_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    wheel(tmp_path, "xformers", {"xformers/__init__.py": "import flash_attn.flash_attn_interface\n"})
    wheel(tmp_path, "flash-attn-4", FLASH4)
    with pytest.raises(Unavailable, match="install flash-attn too"):
        xformers.XformersAuto().load()
