"""The README's examples run as they stand there; those for a GPU, where there is none, are interpreted."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pandas as pd
import pytest
import torch

import lightning_kernels
from lightning_bench.machine import describe_machine
from lightning_bench.machine.ceilings import keep
from lightning_bench.measure.device.peaks import measure_device
from lightning_bench.record import read_records
from lightning_bench.suite import bundled_suites
from tests.support.paths import ROOT
from tests.support.patience import PATIENCE_S

README = (ROOT / "README.md").read_text()
LIBRARY = [
    code
    for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    if "from lightning_kernels import" in code
]


def block(language: str, holding: str) -> str:
    """Return the only fenced block of a language that holds some text."""
    blocks = [b for b in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if holding in b]
    assert len(blocks) == 1
    return str(blocks[0])


@pytest.mark.slow
def test_the_provider_and_the_suite_of_the_readme_run(tmp_path: Path) -> None:
    provider = block("python", "class Mine")
    assert len([line for line in provider.splitlines() if line.strip()]) <= 10
    (tmp_path / "mine.py").write_text(provider)
    (tmp_path / "my.toml").write_text(block("toml", "[[group]]"))
    command = [sys.executable, "-m", "lightning_bench", "check", "my.toml", "--device", "cpu"]
    for extra, names in (
        (["--out", "suite.csv"], {"lightning2-torch", "sdpa-math"}),
        (["--out", "mine.csv", "--provider", "mine.py:Mine"], {"mine"}),
    ):
        done = subprocess.run(
            [*command, *extra], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S
        )
        assert done.returncode == 0, done.stderr
        records = read_records(tmp_path / extra[1])
        assert {r.provider for r in records} == names
        assert {r.status for r in records} == {"ok"}


@pytest.mark.slow
def test_the_entry_point_of_the_readme_is_found(tmp_path: Path) -> None:
    points = tomllib.loads(block("toml", "entry-points"))["project"]["entry-points"]
    ((group, entries),) = points.items()
    ((name, target),) = entries.items()
    module, _, _ = target.partition(":")
    code = tmp_path / "site" / Path(*module.split(".")).with_suffix(".py")
    code.parent.mkdir(parents=True)
    code.write_text(block("python", "class Mine"))
    info = tmp_path / "site" / "my_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {target}\n")
    (tmp_path / "my.toml").write_text(block("toml", "[[group]]"))
    done = subprocess.run(
        [sys.executable, "-m", "lightning_bench", "check", "my.toml", "--provider", name, "--device", "cpu"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    (csv,) = (tmp_path / "results" / "cpu").glob("*.csv")
    assert {(r.provider, r.status) for r in read_records(csv)} == {("mine", "ok")}


def test_the_library_examples_are_these() -> None:
    first_words = [re.findall(r"from lightning_kernels import (.*)", code) for code in LIBRARY]
    named = {name for words in first_words for name in words[0].split(", ")}
    assert named >= {"lightning_attn2", "lightning_attn2_step", "lightning_attn2_torch"}
    assert len(LIBRARY) == 4


@pytest.mark.slow
@pytest.mark.parametrize("code", LIBRARY)
def test_an_example_of_the_library_runs(code: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    if "cuda" in code and not torch.cuda.is_available():
        code = code.replace('"cuda"', '"cpu"').replace("bfloat16", "float16")  # the interpreter has no bf16
        environment["TRITON_INTERPRET"] = "1"
    code += "assert o.isfinite().all()\n"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def ceilings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with the ceilings of this CPU, which take ten seconds to measure."""
    path = tmp_path_factory.mktemp("ceilings") / "ceilings.csv"
    keep(path, measure_device("cpu"), describe_machine("cpu"))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("line", re.findall(r"^lbench .*$", README, re.MULTILINE))
def test_commands_of_the_readme_are_understood(line: str, tmp_path: Path, ceilings: Path) -> None:
    words = line.split("#")[0].split()[1:]
    if words[0] in ("speed", "memory", "check"):
        words += ["--dry-run", "--device", "cpu"]
    folder = ROOT if words[0] in ("report", "history") else tmp_path
    if words[0] in ("ceilings", "profile"):
        folder = tmp_path.with_name(f"{tmp_path.name}-inputs")
        (folder / "results" / "cpu").mkdir(parents=True)
        shutil.copy(ceilings, folder / "results" / "cpu")
        words += ["--device", "cpu"]
    if words[0] == "profile" and not torch.cuda.is_available():
        here = {"lightning2": "lightning2-torch", "fla-chunk": "sdpa-math"}
        words = [here.get(word, word) for word in words]
    # These take long, or need a GPU.
    if words[0] in ("calibrate", "verify") or {"--ref", "--ncu", "--sanitizer"} & set(words):
        words += ["--help"]
    if "base.csv" in words:
        folder = tmp_path.with_name(f"{tmp_path.name}-inputs")
        folder.mkdir()
        base = pd.read_csv(ROOT / "results" / "h200" / "paper-speed.csv")
        times = [name for name in base.columns if name.endswith("_ms")]
        base.to_csv(folder / "base.csv", index=False)
        base.assign(**{name: 0.5 * base[name] for name in times}).to_csv(folder / "head.csv", index=False)
    if "mine.py" in line:
        folder = tmp_path.with_name(f"{tmp_path.name}-inputs")
        folder.mkdir()
        (folder / "mine.py").write_text(block("python", "def attn"))
    writes = "--out" in words
    if words[0] == "report" and writes:  # a plot of every figure of two files, rather than of all
        folder = tmp_path.with_name(f"{tmp_path.name}-inputs")
        results = folder / "results" / "h200"
        results.mkdir(parents=True)
        for name in ("parallelism-speed.csv", "paper-memory.csv"):
            shutil.copy(ROOT / "results" / "h200" / name, results)
    if writes:
        words[words.index("--out") + 1] = str(tmp_path / "made")
    done = subprocess.run(
        [sys.executable, "-m", "lightning_bench", *words],
        cwd=folder,
        env={**os.environ, "BROWSER": "true %s"},  # what --open starts
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr if writes else done.stdout
    assert [path.name for path in tmp_path.iterdir()] == (["made"] if writes else [])


def test_files_that_the_readme_links_are_there() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_function_of_the_library_is_in_the_readme() -> None:
    assert [name for name in lightning_kernels.__all__ if f"`{name}`" not in README] == []


def test_suites_that_the_readme_names_are_bundled() -> None:
    assert {"paper", "quick", "dims"} <= set(bundled_suites())


@pytest.mark.slow
def test_the_python_of_the_readme_runs(tmp_path: Path) -> None:
    """On a CPU, where flash2 has rows `unavailable`."""
    code = block("python", "def attn") + block("python", "import lightning_bench as lb")
    assert len([line for line in block("python", "import lightning_bench as lb").splitlines() if line]) <= 5
    code = code.replace("flash2", "sdpa-math").replace("1024, 4096", "32, 64")
    call = code.replace("seq_len=", 'direction="fwd", quick=True, device="cpu", seq_len=')
    (tmp_path / "script.py").write_text(call + "print(*sorted(set(result.df['status'])))\n")
    environment = os.environ | {"LBENCH_LOAD": "ignore"}
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) <= {"ok", "unstable"}
