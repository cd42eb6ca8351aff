"""Which compute-sanitizer is taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_bench.errors import UsageError
from lightning_bench.run import sanitizer as module
from lightning_bench.run.sanitizer import Sanitizer, find_sanitizer


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide what this machine has."""
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setattr(module, "_TOOLKITS", f"{tmp_path}/cuda*/bin")
    monkeypatch.setattr("sys.path", [str(tmp_path / "site")])


def program(folder: Path) -> str:
    folder.mkdir(parents=True)
    path = folder / "compute-sanitizer"
    path.write_text("")
    path.chmod(0o755)
    return str(path)


def test_each_place_precedes_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = [
        program(tmp_path / "site/nvidia/cu13/bin"),
        program(tmp_path / "cuda-13.0/bin"),
        program(tmp_path / "home/bin"),
        program(tmp_path / "path"),
    ]
    for path in places[:2]:
        Path(path).chmod(0o644)
    with pytest.raises(UsageError, match="neither on PATH nor in CUDA_HOME"):
        find_sanitizer("memcheck", None)
    Path(places[0]).chmod(0o755)
    assert find_sanitizer("memcheck", None).path == places[0]
    Path(places[1]).chmod(0o755)
    assert find_sanitizer("memcheck", None).path == places[1]
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "home"))
    assert find_sanitizer("memcheck", None).path == places[2]
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    assert find_sanitizer("racecheck", None) == Sanitizer("racecheck", places[3])


def test_the_newest_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"path": "2025.3.1.0", "cuda-13.0/bin": "2026.4.0.0", "site/nvidia/cu13/bin": "2026.1.0.0"}
    for folder, version in versions.items():
        said = f"NVIDIA (R) Compute Sanitizer\nVersion {version} (build 1)"
        Path(program(tmp_path / folder)).write_text(f"#!/bin/sh\necho '{said}'\n")
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    found = find_sanitizer("racecheck", None)
    assert (found.path, found.name) == (f"{tmp_path}/cuda-13.0/bin/compute-sanitizer", "racecheck 2026.4")
    monkeypatch.setattr(module, "_TOOLKITS", f"{tmp_path}/none")
    assert find_sanitizer("racecheck", None).version == (2026, 1)
    given = find_sanitizer("racecheck", tmp_path / "path/compute-sanitizer")
    assert given.name == "racecheck 2025.3"


def test_a_path_that_is_given_precedes_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = program(tmp_path / "mine")
    monkeypatch.setenv("PATH", str(Path(program(tmp_path / "path")).parent))
    assert find_sanitizer("memcheck", Path(path)).path == path
    for bad in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UsageError, match=r"is not a program; give the path of compute-sanitizer"):
            find_sanitizer("memcheck", bad)


def test_where_there_is_none_the_error_says_what_to_install() -> None:
    with pytest.raises(UsageError) as raised:
        find_sanitizer("memcheck", None)
    assert "CUDA toolkit" in str(raised.value)
    assert "pip install nvidia-cuda-sanitizer-api" in str(raised.value)
