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
import typer

import lightning_bench
from lightning_bench.cli.app import app
from lightning_bench.cli.shared.common_options import AXES_PANEL
from lightning_bench.providers import provider_names
from lightning_bench.providers.registry import packages
from lightning_bench.suite import bundled_suites
from tests.support.paths import ROOT

Lbench = Callable[..., Any]
PLAN = ["speed", "quick", "--device", "cpu", "--dry-run"]


@pytest.fixture(autouse=True)
def _nothing_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the folder whose rows every plan would read."""
    monkeypatch.chdir(tmp_path)


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
    assert (data["name"], data["protocol"], len(data["cases"])) == ("quick", "lbench", 48)
    assert Path(data["path"]).name == "quick.toml"
    assert data["limits"]["time_limit_s"] == 60
    text = lbench("suites", "quick", "--device", "cpu")
    assert text.out.splitlines() == data["cases"]
    assert text.err.splitlines()[1].endswith("quick.toml, protocol lbench, 48 cases:")


def test_providers(lbench: Lbench) -> None:
    rows = json.loads(lbench("providers", "--device", "cpu", "--no-load", "--json").out)
    assert [row["name"] for row in rows] == provider_names()
    here = {row["name"]: row["reason"] for row in rows}
    assert here["lightning2-torch"] == ""
    assert here["lightning2"] == "needs a CUDA device"
    lines = lbench("providers", "--device", "cpu", "--no-load").out.splitlines()
    assert lines[0].split() == ["provider", "family", "takes", "library", "here"]
    takes = {row["name"]: (row["packs"], row["grouped_heads"]) for row in rows}
    assert takes["lightning2"] == (True, True)
    assert takes["fla-chunk"] == (True, False)
    assert takes["sdpa-math"] == (False, False)
    assert [row["name"] for row in rows if row["on_ranks"]] == ["context-parallel", "context-parallel-torch"]
    (line,) = [line for line in lines if line.startswith("lightning2-torch ")]
    assert "packing," in line.split()
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
    rows = json.loads(lbench(*PLAN, option, value, "--json").out)["cases"]
    found = [re.findall(pattern, row["case_id"]) for row in rows]
    assert list(dict.fromkeys(each for (each,) in found)) == expected
    before = json.loads(lbench(*PLAN, "--json").out)["cases"]
    old = {each for row in before for each in re.findall(pattern, row["case_id"])}
    assert len(rows) == len(before) // len(old) * len(expected)


TWICE = [
    *((option, value.split(",")) for option, value, _, _ in AXES if "," in value),
    ("--kv-heads", ["1", "2"]),
    ("--layer", ["0 of 80", "79 of 80"]),
    ("--rank", ["0 of 8", "7 of 8"]),
    ("--packing", ["4 x 64", "96 + 32"]),
]


@pytest.mark.parametrize(("option", "values"), TWICE)
def test_an_axis_given_twice_has_the_values_of_both(lbench: Lbench, option: str, values: list[str]) -> None:
    once = lbench(*PLAN, option, ",".join(values), "--json")
    twice = lbench(*PLAN, *(word for value in values for word in (option, value)), "--json")
    assert (once.code, once.out) == (0, twice.out)


def test_every_axis_may_be_given_twice() -> None:
    speed = typer.main.get_command(app).commands["speed"]  # type: ignore[attr-defined]
    once = {each.name for each in speed.params if each.rich_help_panel == AXES_PANEL and not each.multiple}
    assert once == set()


def test_dry_run_runs_nothing_and_writes_nothing(
    lbench: Lbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = lbench(*PLAN, "--seq-len", "256", "--out", "out.csv")
    assert ran.code == 0
    assert list(tmp_path.iterdir()) == []
    header, *lines = ran.out.splitlines()
    assert header.split() == ["suite", "MiB", "peak", "case", "why", "not", "here"]
    assert [line.split()[:3] for line in lines if line.startswith("quick")][:2] == [
        ["quick", "1.0", "lightning2/fwd/b1-h4-n256-d64-e64-fp32-cpu"],
        ["quick", "1.0", "lightning2-torch/fwd/b1-h4-n256-d64-e64-fp32-cpu"],
    ]
    time, memory = ran.err.splitlines()
    assert time.startswith("quick speed: 8 cases, 1 × each, of which 6 can run: about ")
    assert time.endswith("checking and warming up come on top: no earlier row says how long)")
    assert memory.startswith("inputs and outputs take at least 2.0 MiB (")


def test_dry_run_of_nothing_that_can_run_gives_no_time(
    lbench: Lbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = lbench(*PLAN, "--seq-len", "256", "--provider", "xformers")
    assert ran.code == 0
    assert ran.err.splitlines()[0] == "quick speed: 2 cases, 1 × each, of which none can run"


def test_dry_run_needs_no_gpu(lbench: Lbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("lightning_bench.machine.gpu.why_no_gpu", lambda: "no NVIDIA driver answers here")
    monkeypatch.setattr(
        "lightning_bench.machine.describe.why_no_gpu", lambda: "no NVIDIA driver answers here"
    )
    ran = lbench("speed", "paper", "--device", "cuda:3", "--dry-run", "--seq-len", "4k")
    assert ran.code == 0
    assert "paper cannot run here: no NVIDIA driver answers here\n" in ran.err
    assert re.search(r"^paper speed: 28 cases, 3 × each: about \d+ (s|min) \(by \d+ earlier rows", ran.err)
    data = json.loads(lbench("speed", "paper", "--dry-run", "--seq-len", "4k", "--json").out)
    peaks = {row["case_id"]: row["recorded_peak_mib"] for row in data["cases"]}
    assert peaks["lightning2/fwd/b4-h32-n4096-d128-e128-bf16-cuda"] > 512
    assert data["estimates"][0]["seconds"] > 28


def test_providers_of_one_family_that_can_run_here(lbench: Lbench) -> None:
    quick = ["providers", "--device", "cpu", "--no-load", "--json"]
    rows = json.loads(lbench(*quick, "--family", "softmax").out)
    assert {row["family"] for row in rows} == {"softmax"}
    here = json.loads(lbench(*quick, "--family", "softmax", "--here").out)
    assert here == [row for row in rows if not row["reason"]]
    assert 0 < len(here) < len(rows)
    assert "did you mean softmax" in lbench("providers", "--family", "sofmax").err


def test_dry_run_says_what_cannot_run_here(new_workspace: Any, lbench: Lbench) -> None:
    ran = lbench("memory", new_workspace.suite(["Good", "NeedsGpu"]), "--dry-run", "--json")
    rows = json.loads(ran.out)["cases"]
    assert [(row["case_id"].split("/")[0], row["here"]) for row in rows] == [
        ("good", "yes"),
        ("needs-gpu", "needs a CUDA device"),
    ]


def test_dry_run_counts_no_case_that_its_provider_rules_out(lbench: Lbench) -> None:
    packed = [*PLAN, "--provider", "lightning2-torch,sdpa-math", "--packing", "2 x 64", "--direction", "fwd"]
    data = json.loads(lbench(*packed, "--json").out)
    assert [row["here"] for row in data["cases"]] == [
        "yes",
        "sdpa-math takes no packed documents (cu_seqlens)",
    ]
    assert data["estimates"][0]["cases"] == 1


def test_help_names_every_option(lbench: Lbench) -> None:
    for command in ("speed", "memory", "check"):
        ran = lbench(command, "--help")
        assert ran.code == 0
        for option in [axis[0] for axis in AXES] + ["--out", "--fresh", "--retry", "--time-limit", "--json"]:
            assert option in ran.out


@pytest.mark.parametrize("command", sorted(command.name or "" for command in app.registered_commands))
def test_every_help_has_examples_and_no_types_of_python(lbench: Lbench, command: str) -> None:
    shown = lbench(command, "--help").out
    examples = shown.partition("Examples:")[2].split("\n")[1:-1]
    assert examples
    assert all(
        line.startswith(f"   lbench {command} ") or line == f"   lbench {command}" for line in examples
    )
    for noise in ("<bool>", "<str>", "<path>", "<list", "<int", "<float", "BOOLEAN"):
        assert noise not in shown


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
