"""What is shown without measuring: suites, providers, env, plans, help; and what that imports."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lightning_bench
from lightning_bench.providers import provider_names
from lightning_bench.providers.registry import packages
from lightning_bench.suite import bundled_suites
from tests.support.paths import ROOT

Lbench = Callable[..., Any]
PLAN = ["speed", "quick", "--device", "cpu", "--dry-run"]


@pytest.mark.slow
def test_suites(lbench: Lbench) -> None:
    rows = json.loads(lbench("suites", "--json").out)
    assert [row["name"] for row in rows] == bundled_suites()
    assert all(row["cases"] > 0 and row["title"] and row["description"] for row in rows)
    text = lbench("suites")
    assert [line.split()[0] for line in text.out.splitlines() if line[0] != " "] == [
        "suite",
        *bundled_suites(),
    ]
    assert text.err == ""


def test_one_suite(lbench: Lbench) -> None:
    data = json.loads(lbench("suites", "quick", "--device", "cpu", "--json").out)
    assert (data["name"], data["protocol"], len(data["cases"])) == ("quick", "lbench", 32)
    assert Path(data["path"]).name == "quick.toml"
    assert data["limits"]["time_limit_s"] == 60
    text = lbench("suites", "quick", "--device", "cpu")
    assert text.out.splitlines() == data["cases"]
    assert text.err.splitlines()[1].endswith("quick.toml, protocol lbench, 32 cases:")


def test_providers(lbench: Lbench) -> None:
    rows = json.loads(lbench("providers", "--device", "cpu", "--no-load", "--json").out)
    assert [row["name"] for row in rows] == provider_names()
    here = {row["name"]: row["reason"] for row in rows}
    assert here["lightning2-torch"] == ""
    assert here["lightning2"] == "needs a CUDA device"
    lines = lbench("providers", "--device", "cpu", "--no-load").out.splitlines()
    assert lines[0].split() == ["provider", "family", "library", "here"]
    assert set(here) <= {line.split()[0] for line in lines}
    assert all(len(line) <= 80 for line in lines)


def test_what_to_install_is_the_smallest_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    # As hatchling writes them: `all` spelled out, and first.
    extras = [
        "fla-core>=1; extra == 'all'",
        "flash-attn>=2; extra == 'all'",
        "flash-attn>=2; extra == 'flash'",
    ]
    monkeypatch.setattr(packages.metadata, "requires", lambda dist: extras)
    monkeypatch.setattr(packages, "installed_version", lambda dist: "")
    assert packages.missing_package("flash-attn") == (
        'flash-attn is not installed; pip install "lightning-bench[flash]"'
    )


def test_env(lbench: Lbench) -> None:
    data = json.loads(lbench("env", "--device", "cpu", "--json").out)
    assert {"device", "device_name", "torch", "python", "harness_version", "machine_id"} <= data.keys()
    assert data["results"].startswith("results/")
    lines = lbench("env", "--device", "cpu").out.splitlines()
    shown = dict(line.split(maxsplit=1) for line in lines if len(line.split()) > 1)
    assert shown["machine_id"].strip() == data["machine_id"]
    assert shown["python"].strip() == data["python"]


AXES = [
    ("--seq-len", "512..2048", r"-n(\d+)-", ["512", "1024", "2048"]),
    ("--seq-len", "300,700", r"-n(\d+)-", ["300", "700"]),
    ("--head-dim", "32,128", r"-d(\d+)-", ["32", "128"]),
    ("--value-dim", "96", r"-e(\d+)-", ["96"]),
    ("--batch", "3", r"/b(\d+)-", ["3"]),
    ("--heads", "2,5", r"-h(\d+)-", ["2", "5"]),
    ("--dtype", "bf16,fp16", r"-(\w+)-cpu", ["bf16", "fp16"]),
    ("--direction", "fwd_bwd", r"/(\w+)/", ["fwd_bwd"]),
    ("--provider", "sdpa-math,lightning2", r"^([^/]+)/", ["sdpa-math", "lightning2"]),
]


@pytest.mark.parametrize(("option", "value", "pattern", "expected"), AXES)
def test_each_axis_replaces_the_suites(
    lbench: Lbench, option: str, value: str, pattern: str, expected: list[str]
) -> None:
    rows = json.loads(lbench(*PLAN, option, value, "--json").out)
    found = [re.findall(pattern, row["case_id"]) for row in rows]
    assert list(dict.fromkeys(each for (each,) in found)) == expected
    before = json.loads(lbench(*PLAN, "--json").out)
    old = {each for row in before for each in re.findall(pattern, row["case_id"])}
    assert len(rows) == len(before) // len(old) * len(expected)


def test_provider_may_be_given_twice(lbench: Lbench) -> None:
    rows = json.loads(lbench(*PLAN, "--provider", "sdpa-math", "--provider", "lightning2", "--json").out)
    assert {row["case_id"].split("/")[0] for row in rows} == {"sdpa-math", "lightning2"}


def test_dry_run_runs_nothing_and_writes_nothing(
    lbench: Lbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = lbench(*PLAN, "--seq-len", "256", "--out", "out.csv")
    assert ran.code == 0
    assert list(tmp_path.iterdir()) == []
    header, *lines = ran.out.splitlines()
    assert header.split() == ["suite", "case", "MiB", "here"]
    assert [line.split()[:3] for line in lines if line.startswith("quick")][:2] == [
        ["quick", "lightning2/fwd/b1-h4-n256-d64-e64-fp32-cpu", "1.0"],
        ["quick", "lightning2-torch/fwd/b1-h4-n256-d64-e64-fp32-cpu", "1.0"],
    ]
    assert ran.err == "8 cases; the largest needs at least 2.0 MiB for its inputs and outputs\n"


def test_dry_run_says_what_cannot_run_here(new_workspace: Any, lbench: Lbench) -> None:
    rows = json.loads(lbench("memory", new_workspace.suite(["Good", "NeedsGpu"]), "--dry-run", "--json").out)
    assert [(row["case_id"].split("/")[0], row["here"]) for row in rows] == [
        ("good", "yes"),
        ("needs-gpu", "needs a CUDA device"),
    ]


def test_help_names_every_option(lbench: Lbench) -> None:
    for command in ("speed", "memory", "check"):
        ran = lbench(command, "--help")
        assert ran.code == 0
        for option in [axis[0] for axis in AXES] + ["--out", "--fresh", "--retry", "--time-limit", "--json"]:
            assert option in ran.out


def test_version(lbench: Lbench) -> None:
    assert lbench("--version").out == f"lbench {lightning_bench.__version__}\n"


def test_cli_py_is_lbench_from_a_bare_checkout(tmp_path: Path) -> None:
    run = [sys.executable, ROOT / "cli.py"]
    shown = subprocess.run([*run, "--help"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "speed" in shown.stdout
    assert subprocess.run([*run, "speed", "nope"], cwd=tmp_path, capture_output=True).returncode == 2


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["--help"], ["suites"], ["providers"], ["env", "--help"]])
def test_quick_answers_import_nothing_heavy(arguments: list[str]) -> None:
    assert not heavy(["-m", "lightning_bench", *arguments])


def test_the_package_imports_nothing_heavy() -> None:
    assert not heavy(["-c", "import lightning_bench"])


def heavy(arguments: list[str]) -> set[str]:
    """Which heavy packages a command imports, whatever part of them."""
    command = [sys.executable, "-X", "importtime", *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    names = re.findall(r"\|\s+([\w.]+)$", ran.stderr, re.MULTILINE)
    assert "lightning_bench" in names
    return {"torch", "pandas", "matplotlib", "numpy", "scipy"} & {name.split(".")[0] for name in names}
