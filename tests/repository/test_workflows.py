"""The workflows and docs/ci.md: every `lbench` in them is a call that the command line takes, and the gate on
a CPU is run, step by step, on pull requests that are whole and that are not."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer

from lightning_bench.errors import ExitCode
from tests.support.forked_workers import FORKING_LBENCH
from tests.support.paths import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
COMPARING = [path for path in WORKFLOWS if path.name.startswith("compare-")]
FILES = [
    *COMPARING,
    *(page for page in sorted((ROOT / "docs").glob("*.md")) if "\nlbench " in page.read_text()),
]


def calls(path: Path) -> list[list[str]]:
    """Return the words of each call, up to what the shell does with it."""
    found = []
    for line in re.sub(r"\\\n\s*", "", path.read_text()).splitlines():
        if path.suffix == ".md" and not re.match(r"\s*(- run: )?lbench ", line):
            continue
        for match in re.finditer(r"(?:\.venv/bin/|^|run: )lbench ([^#|&]*)", line):
            words = shlex.split(re.split(r"\|\||\s>>", match[1])[0])
            found.append([re.sub(r"\$\{?[\w{} .]+\}?\}?", "x", word) for word in words])
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_call_is_one_that_the_command_line_takes(path: Path) -> None:
    from lightning_bench.cli.app import app

    group = typer.main.get_command(app)
    there = calls(path)
    assert there, f"{path} calls lbench nowhere"
    for name, *words in there:
        command = group.commands[name]  # type: ignore[attr-defined]
        command.make_context(name, list(words))  # raises where an option is not known


def test_a_call_that_the_command_line_does_not_take_is_noticed() -> None:
    from lightning_bench.cli.app import app

    command = typer.main.get_command(app).commands["compare"]  # type: ignore[attr-defined]
    with pytest.raises(Exception, match="No such option"):
        command.make_context("compare", ["a.csv", "--treshold", "3%"])


def jobs(path: Path) -> dict[str, Any]:
    import yaml

    return dict(yaml.safe_load(path.read_text())["jobs"])


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_the_workflows_name_what_is_there_and_the_shell_takes_their_scripts(path: Path) -> None:
    for job in jobs(path).values():
        there: set[str] = set()
        for step in job["steps"]:
            assert ("run" in step) != ("uses" in step), step
            text = str(step)
            assert set(re.findall(r"steps\.(\w+)\.outputs", text)) <= there, text
            assert set(re.findall(r"env\.(\w+)", text)) <= set(job.get("env", ())), text
            there |= {step["id"]} if "id" in step else set()
            if "run" in step:
                subprocess.run(["bash", "-n", "-c", step["run"]], check=True)
        kept = [step["with"]["path"] for step in job["steps"] if "cache/save" in step.get("uses", "")]
        restored = [s["with"]["path"] for s in job["steps"] if "cache/restore" in s.get("uses", "")]
        assert kept == restored
        assert bool(kept) == (path in COMPARING)
    assert "pull_request_target" not in path.read_text()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_by_commit_with_their_version_beside_it(path: Path) -> None:
    used = re.findall(r"uses: (.*)", path.read_text())
    assert used
    for action in used:
        if action.startswith("./"):  # of this repository
            assert (ROOT / action / "action.yml").is_file()
            continue
        assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action


@pytest.mark.parametrize("path", COMPARING, ids=lambda path: path.name)
def test_a_cache_is_saved_only_after_what_fills_it_ended_well(path: Path) -> None:
    for job in jobs(path).values():
        for before, step in pairwise(job["steps"]):
            if "cache/save" not in step.get("uses", ""):
                continue
            assert not re.search(r"always|cancelled|failure", step["if"])
            sweeps = re.findall(r"lbench (?:speed|memory) .*", before["run"])
            assert all(re.search(r"\|\| \{ test \$\? = 1; whole=false; \}$", sweep) for sweep in sweeps)
            assert bool(sweeps) == (step["if"] == "steps.measured.outputs.whole == 'true'")
            assert bool(sweeps) == (before.get("id") == "measured")


@pytest.mark.parametrize(("code", "ended", "whole"), [(0, 0, "true"), (1, 0, "false"), (4, 1, None)])
@pytest.mark.parametrize("path", COMPARING, ids=lambda path: path.name)
def test_a_base_that_did_not_end_well_fails_the_job_or_is_not_cached(
    tmp_path: Path, path: Path, code: int, ended: int, whole: str | None
) -> None:
    (job,) = jobs(path).values()
    (step,) = (step for step in job["steps"] if step.get("id") == "measured")
    for name, status in ((".venv/bin/lbench", code), ("git", 0)):
        program = tmp_path / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f"#!/bin/sh\nexit {status}\n")
        program.chmod(0o755)
    output = tmp_path / "output"
    environment = os.environ | {
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "GITHUB_OUTPUT": str(output),
        "BASE": "base",
    }
    command = ["bash", "-e", "-c", step["run"]]
    assert subprocess.run(command, cwd=tmp_path, env=environment, check=False).returncode == ended
    assert (output.read_text() if output.exists() else None) == (whole and f"whole={whole}\n")


@pytest.mark.parametrize("code", [ExitCode.OK, ExitCode.FOUND, ExitCode.UNDECIDED, ExitCode.DIED])
@pytest.mark.parametrize("path", COMPARING, ids=lambda path: path.name)
def test_a_comparison_that_is_worse_or_not_decided_fails_the_job(
    tmp_path: Path, path: Path, code: ExitCode
) -> None:
    program = tmp_path / ".venv" / "bin" / "lbench"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\ntest "$1" != compare || exit {code.value}\n')
    program.chmod(0o755)
    (job,) = jobs(path).values()
    compares = [step["run"] for step in job["steps"] if "lbench compare" in step.get("run", "")]
    assert compares
    for script in compares:
        command = ["bash", "-e", "-c", script]
        ran = subprocess.run(command, cwd=tmp_path, env=os.environ | {"BASE": "base"}, check=False)
        assert ran.returncode == code


def test_every_python_that_the_package_names_is_tested() -> None:
    matrix = jobs(ROOT / ".github" / "workflows" / "test.yml")["test"]["strategy"]["matrix"]["python"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == f">={matrix[0]}"
    classified = re.findall(r"Python :: (3\.\d+)", str(project["classifiers"]))
    assert matrix == classified == ["3.11", "3.12", "3.13"]


def test_actionlint_has_nothing_to_say() -> None:
    if (program := shutil.which("actionlint")) is None:
        pytest.skip("actionlint is not installed")
    subprocess.run([program, *map(str, WORKFLOWS)], cwd=ROOT, check=True)


class PullRequest:
    """A repository with the bundled kernels, and the CPU workflow's scripts, of two small cases each."""

    def __init__(self, root: Path) -> None:
        self.root = root
        source = ROOT / "kernels" / "lightning_kernels"
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, root / "kernels" / "lightning_kernels", ignore=ignored)
        program = root / ".venv" / "bin" / "lbench"
        program.parent.mkdir(parents=True)
        # Kernels that PYTHONPATH names come first, as before an editable installation.
        own = f"{root / 'kernels'}{os.pathsep}{ROOT}"
        program.write_text(
            f'#!/bin/sh\nexport PYTHONPATH="${{PYTHONPATH:+$PYTHONPATH:}}{own}"\n'
            f'exec {shlex.join(FORKING_LBENCH)} "$@"\n'
        )
        program.chmod(0o755)
        (root / ".gitignore").write_text(".venv\n.lbench\n__pycache__\n")
        for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "base"]):
            self.git(*words)
        self.base = self.git("rev-parse", "HEAD").strip()

    def git(self, *words: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
        command = ["git", *who, *words]
        return subprocess.run(command, cwd=self.root, capture_output=True, text=True, check=True).stdout

    def checked(self) -> tuple[str, int, str]:
        """Every step in turn, its cache kept between calls: the step that failed, exit code, words."""
        (job,) = jobs(ROOT / ".github" / "workflows" / "compare-cpu.yml").values()
        environment = (
            os.environ | job["env"] | {"BASE": self.base, "GITHUB_OUTPUT": str(self.root / "output")}
        )
        for name in ("PYTHONPATH", "GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
            environment.pop(name, None)
        cached = (self.root / ".lbench" / "base").is_dir()
        shutil.rmtree(self.root / ".lbench" / "head", ignore_errors=True)
        for step in job["steps"]:
            if (
                "run" not in step
                or step["name"] == "Set up"
                or (cached and "cache-hit" in step.get("if", ""))
            ):
                continue
            script = (
                step["run"]
                .replace("quick --device cpu", "quick --device cpu --seq-len 64 --direction fwd")
                .replace("--threshold 25%", "--threshold 95%")
            )  # what else runs here must not decide
            ran = subprocess.run(
                ["bash", "-e", "-c", script],
                cwd=self.root,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            if ran.returncode:
                return step["name"], ran.returncode, ran.stdout + ran.stderr
        return "", 0, ran.stdout


@pytest.mark.slow
@pytest.mark.usefixtures("forked_workers")
def test_the_gate_on_a_cpu_passes_what_is_whole_and_fails_what_is_broken(tmp_path: Path) -> None:
    request = PullRequest(tmp_path)
    # As a cancelled job leaves it: the folder is gone, git still knows of it.
    request.git("worktree", "add", "--detach", ".lbench/tree")
    shutil.rmtree(tmp_path / ".lbench")
    for _ in range(5):  # what else runs here may disturb one of two equal sides, though not each time
        failed, code, said = request.checked()
        if failed not in ("", "Compare") or "Nothing is worse in 2 cells" in said:
            break
        shutil.rmtree(tmp_path / ".lbench" / "base", ignore_errors=True)
    assert (failed, code) == ("", 0), said
    assert "Nothing is worse in 2 cells" in said
    assert re.match(r"id=\w+\nwhole=true\n", (tmp_path / "output").read_text())
    assert request.git("worktree", "list").count("\n") == 1
    rows = (tmp_path / ".lbench" / "base" / "speed.csv").read_text()
    init = tmp_path / "kernels" / "lightning_kernels" / "__init__.py"
    init.write_text(f'raise RuntimeError("half a merge")\n{init.read_text()}')
    failed, code, said = request.checked()
    assert (failed, code) == ("Compare", 1), said
    assert "2 BROKEN" in said
    assert (tmp_path / ".lbench" / "base" / "speed.csv").read_text() == rows, "the base is measured once"
