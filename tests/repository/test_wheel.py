"""The built wheel, installed into an environment of its own, measures far from the repository.

What it depends on comes from the site-packages of this Python, so that the test downloads nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lightning_bench.machine import harness_commit
from lightning_bench.record import read_records
from lightning_bench.suite import bundled_suites
from tests.support.documents import REPOSITORY
from tests.support.paths import ROOT
from tests.support.patience import PATIENCE_S

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-q",
        "-w",
        str(folder),
    ]
    subprocess.run([*build, str(ROOT)], cwd=folder, check=True, timeout=PATIENCE_S)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def program(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return `lbench` of an environment that has the wheel and, after it, the libraries of this one."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=PATIENCE_S)
    python = folder / "bin" / "python"
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "-q",
        "--no-deps",
        "--no-index",
    ]
    subprocess.run([*install, str(wheel)], check=True, timeout=PATIENCE_S)
    (own,) = (folder / "lib").glob("python3*/site-packages")
    libraries = [path for path in sys.path if Path(path).name in {"site-packages", "dist-packages"}]
    (own / "libraries.pth").write_text("".join(f"{path}\n" for path in libraries))
    return folder / "bin" / "lbench"


def ran(program: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    hidden = {"PYTHONPATH", "LBENCH_COMMIT"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    return subprocess.run(
        [program, *words],
        cwd=folder,
        env=environment | {"LBENCH_LOAD": "ignore"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


def test_it_measures_and_its_rows_name_the_commit(program: Path, tmp_path: Path) -> None:
    words = ["speed", "quick", "--device", "cpu", "--seq-len", "64", "--direction", "fwd"]
    done = ran(program, tmp_path, *words, "--provider", "lightning2-torch,sdpa-math", "--quick")
    assert done.returncode == 0, done.stderr
    records = read_records(tmp_path / "results" / "cpu" / "quick-speed.csv")
    assert {r.provider for r in records} == {"lightning2-torch", "sdpa-math"}
    assert {r.status for r in records} <= {"ok", "unstable"}
    assert {r.harness_commit for r in records} == {harness_commit(ROOT)} != {""}


def test_it_runs_its_own_code(program: Path, tmp_path: Path) -> None:
    code = "import lightning_bench, lightning_kernels as k; print(lightning_bench.__file__, k.__file__)"
    python = program.with_name("python")
    done = subprocess.run([python, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert all(path.startswith(str(program.parents[1])) for path in done.stdout.split())


def test_it_has_the_suites_and_the_published_tables(program: Path, tmp_path: Path) -> None:
    listed = ran(program, tmp_path, "suites")
    assert [name for name in bundled_suites() if name not in listed.stdout] == []
    source = ROOT / "results" / "h200" / "paper-memory-published.csv"
    against = ran(program, tmp_path, "report", str(source), "--against", "published")
    assert against.returncode == 0, against.stderr
    assert "270.1" in against.stdout


def test_it_holds_what_a_release_needs_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (archive.read(name).decode() for name in names if name.endswith("/METADATA"))
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"lightning_bench", "lightning_kernels"}
    assert {"lightning_bench/py.typed", "lightning_kernels/py.typed"} <= set(names)
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert f"Project-URL: Repository, {REPOSITORY}\n" in metadata
    assert "Author: The lightning-bench authors\n" in metadata
