"""action.yml and comment/action.yml, run step by step for a pull request; calls of GitHub are recorded."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import typer
import yaml

from tests.support.composite_action import CompositeAction, Ended
from tests.support.forked_workers import FORKING_LBENCH
from tests.support.paths import ROOT

ACTION, COMMENT = ROOT / "action.yml", ROOT / "comment" / "action.yml"
SUITE = """
title = "One"
description = "One case of one provider."
device = "cpu"
[[group]]
providers = ["mine.py:attention@softmax"]
direction = "fwd"
dtype = "fp32"
batch = 1
heads = 2
seq_len = 64
head_dim = 16
"""
KERNEL = """
def attention(q, k, v):
    from torch.nn.functional import scaled_dot_product_attention
    return scaled_dot_product_attention(q, k, v, is_causal=True)
"""
GH = """#!{python}
import json, os, sys
words, folder = sys.argv[1:], os.environ["RECORDED"]
body = next((open(w.removeprefix("body=@")).read() for w in words if w.startswith("body=@")), None)
with open(folder + "/calls.jsonl", "a") as file:
    print(json.dumps([words, body]), file=file)
answers = json.load(open(folder + "/answers.json"))
print(next((answer for path, answer in answers.items() if any(w.endswith(path) for w in words)), ""))
"""

# Python, but that `lbench` forks its workers.
PYTHON = f"""#!/bin/sh
test "$1 $2" = "-m lightning_bench" || exec {sys.executable} "$@"
shift 2
exec {shlex.join(FORKING_LBENCH)} "$@"
"""


class PullRequest:
    """A repository with one kernel, the base of a pull request, and the folder of a runner."""

    def __init__(self, folder: Path) -> None:
        self.root, self.temp = folder / "repository", folder / "temp"
        for path in (self.root, self.temp):
            path.mkdir()
        (self.root / "mine.py").write_text(KERNEL)
        (self.root / "suite.toml").write_text(SUITE)
        for words in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-qm", "base"]):
            self.git(*words)
        self.base = self.git("rev-parse", "HEAD").strip()
        self.python = folder / "python"
        self.python.write_text(PYTHON)
        self.python.chmod(0o755)

    def git(self, *words: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
        command = ["git", *who, *words]
        return subprocess.run(command, cwd=self.root, capture_output=True, text=True, check=True).stdout

    def compared(self, **inputs: str) -> Ended:
        """Run the action on the tree as it is; with `install="none"` this tree's lightning-bench is used."""
        path = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
        hidden = {"GITHUB_STEP_SUMMARY": "", "GITHUB_ACTIONS": "", "LBENCH_LOAD": "ignore"}
        action = CompositeAction(
            ACTION,
            {
                "actions/cache/restore": lambda given: {},
                "actions/cache/save": lambda given: {},
                "actions/upload-artifact": self._upload,
            },
            {
                "runner.temp": str(self.temp),
                "github.action_path": str(ROOT),
                "github.event.pull_request.base.sha": self.base,
                "github.event.pull_request.number": "7",
            },
            hidden | ({"PYTHONPATH": path} if inputs.get("install") == "none" else {}),
        )
        asked = {"suite": "suite.toml", "python": str(self.python), "calibrate": "false"}
        return action.run(self.root, **(asked | {"options": "--metric memory --pairs 2"} | inputs))

    def _upload(self, given: Mapping[str, str]) -> Mapping[str, str]:
        shutil.copytree(given["path"], self.temp / "artifact", dirs_exist_ok=True)
        return {}


@pytest.fixture
def request_(tmp_path: Path, forked_workers: None) -> PullRequest:
    return PullRequest(tmp_path)


@pytest.mark.slow
def test_a_pull_request_that_breaks_a_kernel_fails_after_its_result_is_kept(request_: PullRequest) -> None:
    (request_.root / "mine.py").write_text(KERNEL.replace("is_causal=True", "is_causal=False"))
    ended = request_.compared(install="none")
    assert (ended.failed, ended.code) == ("Verdict", 1), ended.text
    artifact = request_.temp / "artifact"
    assert (artifact / "number").read_text() == "7\n"
    assert "❌ lbench: Worse: 1 BROKEN of 1 cell" in (artifact / "comment.md").read_text()
    assert {"junit.xml", "rows"} <= {path.name for path in artifact.iterdir()}
    allowed = request_.compared(install="none", allow="*=wrong on purpose, #12\n")
    assert (allowed.failed, allowed.code) == ("", 0), allowed.text
    assert allowed.outputs["exit-code"] == "0"


@pytest.mark.slow
def test_a_pull_request_that_touches_no_kernel_passes_without_measuring(request_: PullRequest) -> None:
    (request_.root / "notes.md").write_text("Text.\n")
    ended = request_.compared(install="none")
    assert (ended.failed, ended.outputs["exit-code"]) == ("", "0"), ended.text
    text = Path(ended.outputs["markdown"]).read_text()
    assert "✅ lbench: Nothing to measure" in text
    everything = request_.compared(install="none", from_diff="false")
    assert "Nothing is worse in 1 cell" in Path(everything.outputs["markdown"]).read_text()


@pytest.mark.slow
def test_a_call_that_is_wrong_ends_the_job_and_leaves_no_result(request_: PullRequest) -> None:
    ended = request_.compared(install="none", ref="no-such-commit")
    assert (ended.failed, ended.code) == ("Compare", 2), ended.text
    assert not (request_.temp / "artifact").exists()


@pytest.mark.slow
def test_it_installs_the_lightning_bench_of_its_own_checkout(
    request_: PullRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its dependencies, which come from this Python, so that nothing is downloaded."""
    libraries = [path for path in sys.path if Path(path).name in {"site-packages", "dist-packages"}]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(libraries))
    monkeypatch.setenv("PIP_NO_DEPS", "1")
    monkeypatch.setenv("PIP_NO_BUILD_ISOLATION", "0")  # pip's way to say that there is none
    (request_.root / "notes.md").write_text("Text.\n")
    ended = request_.compared()
    assert (ended.failed, ended.code) == ("", 0), ended.text
    assert "Nothing to measure" in Path(ended.outputs["markdown"]).read_text()
    assert list((request_.temp / "lightning-bench").glob("lib/python3*/site-packages/lightning_bench"))


def test_it_calibrates_only_where_the_cache_has_nothing_and_calls_lbench_as_it_is() -> None:
    from lightning_bench.cli.app import app

    steps = {step.get("name"): step for step in yaml.safe_load(ACTION.read_text())["runs"]["steps"]}
    calibrate = steps["Calibrate, once a machine"]
    assert "cache-hit != 'true'" in calibrate["if"]
    assert "inputs.calibrate == 'true'" in calibrate["if"]
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    commands["calibrate"].make_context("calibrate", ["quick", "--dtype", "fp32", "--out", "a.csv"])
    words = ["--ref", "main", "quick", "--from-diff", "--calibration", "a.csv", "--markdown"]
    commands["compare"].make_context("compare", [*words, "--junit", "a.xml", "--out", "rows"])


class GitHub:
    """A recorder in the place of `gh`: it answers from a table, and keeps the calls with their bodies."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.temp = folder, folder / "temp"
        (self.temp / "lightning-bench-result").mkdir(parents=True)
        program = folder / "bin" / "gh"
        program.parent.mkdir()
        program.write_text(GH.replace("{python}", sys.executable))
        program.chmod(0o755)
        self.answers = {"pulls/7": "abc", "issues/7/comments": ""}

    def commented(self, number: str = "7\n", body: str = "### ✅ lbench: fine\n") -> tuple[Ended, list[str]]:
        """Run the action on an artifact with this number and text; return also the bodies that it sent."""
        result = self.temp / "lightning-bench-result"
        (result / "number").write_text(number)
        (result / "comment.md").write_text(body)
        (self.folder / "answers.json").write_text(json.dumps(self.answers))
        (self.folder / "calls.jsonl").write_text("")
        action = CompositeAction(
            COMMENT,
            {"actions/download-artifact": lambda given: {}},
            {
                "runner.temp": str(self.temp),
                "github.repository": "owner/name",
                "github.event.workflow_run.head_sha": "abc",
                "github.event.workflow_run.html_url": "https://github.com/owner/name/actions/runs/1",
            },
            {
                "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
                "RECORDED": str(self.folder),
            },
        )
        return action.run(self.folder), [body for _, body in self.calls() if body is not None]

    def calls(self) -> list[tuple[list[str], str | None]]:
        lines = (self.folder / "calls.jsonl").read_text().splitlines()
        return [(words, body) for words, body in map(json.loads, lines)]


@pytest.fixture
def github(tmp_path: Path) -> GitHub:
    return GitHub(tmp_path)


def test_the_comment_is_made_once_and_then_changed(github: GitHub) -> None:
    ended, (body,) = github.commented()
    assert not ended.failed, ended.text
    assert body.startswith("<!-- lightning-bench -->\n### ✅ lbench: fine\n")
    assert "https://github.com/owner/name/actions/runs/1" in body
    assert github.calls()[-1][0][:4] == ["api", "--method", "POST", "repos/owner/name/issues/7/comments"]
    github.answers["issues/7/comments"] = "31\n32"
    github.commented()
    assert github.calls()[-1][0][:4] == ["api", "--method", "PATCH", "repos/owner/name/issues/comments/31"]


@pytest.mark.parametrize("number", ["\n", "0\n", "7; rm -rf /\n", "8/../7\n", "$(touch pwned)\n"])
def test_a_number_that_is_none_gets_no_comment(github: GitHub, number: str) -> None:
    ended, bodies = github.commented(number)
    assert (ended.failed, bodies, github.calls()) == ("", [], [])
    assert "::warning" in ended.text
    assert not (github.folder / "pwned").exists()


def test_the_number_of_another_pull_request_gets_no_comment(github: GitHub) -> None:
    github.answers["pulls/7"] = "def"
    ended, bodies = github.commented()
    assert (ended.failed, bodies) == ("", [])
    assert "is not at abc" in ended.text


def test_a_long_text_is_cut_between_characters(github: GitHub) -> None:
    _, (body,) = github.commented(body="é" * 100_000)
    assert 30_000 < len(body) < 65_536
    assert body.encode().decode() == body


@pytest.mark.parametrize("path", [ACTION, COMMENT], ids=["action", "comment"])
def test_no_expression_is_in_a_script_and_every_input_is_used(path: Path) -> None:
    """Text of a pull request that an expression puts into a script would run there."""
    action = yaml.safe_load(path.read_text())
    for step in action["runs"]["steps"]:
        assert "${{" not in step.get("run", "")
        if "run" in step:
            subprocess.run(["bash", "-n", "-c", step["run"]], check=True)
        elif not step["uses"].startswith("./"):
            assert re.search(rf"uses: {step['uses']} # v\d+\.\d+\.\d+\n", path.read_text())
            assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", step["uses"])
    text = path.read_text()
    assert [name for name in action["inputs"] if f"inputs.{name}" not in text] == []


@pytest.mark.parametrize("path", [ACTION, COMMENT], ids=["action", "comment"])
def test_actionlint_has_nothing_to_say_of_the_steps(path: Path, tmp_path: Path) -> None:
    """As steps of a job: actionlint checks workflows, and of an action only its inputs."""
    if (program := shutil.which("actionlint")) is None:
        pytest.skip("actionlint is not installed")
    action = yaml.safe_load(path.read_text())
    inputs = {name: {"type": "string"} for name in action["inputs"]}
    workflow = {
        "name": "steps",
        "on": {"workflow_call": {"inputs": inputs}},
        "jobs": {"steps": {"runs-on": "ubuntu-latest", "steps": action["runs"]["steps"]}},
    }
    (tmp_path / "workflow.yml").write_text(yaml.safe_dump(workflow, sort_keys=False))
    subprocess.run([program, str(tmp_path / "workflow.yml")], cwd=ROOT, check=True)


def test_the_workflows_of_the_documents_are_those_of_this_repository(tmp_path: Path) -> None:
    """But for the suite, the runner and the address of the action."""
    text = (ROOT / "docs" / "ci.md").read_text().split("## Without the action")[0]
    shown = [yaml.safe_load(code) for code in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    for one, name in zip(shown, ("diff", "comment"), strict=True):
        own = yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text())
        for key in ("name", True, "permissions"):  # YAML 1.1 reads `on` as True
            assert one[key] == own[key]
        (job,) = one["jobs"].values()
        action = yaml.safe_load((ACTION if name == "diff" else COMMENT).read_text())
        assert set(job["steps"][-1].get("with", {})) <= set(action["inputs"])
    documented = set(re.findall(r"`([a-z-]+)`", "\n".join(re.findall(r"^\| (`.*?) \|", text, re.MULTILINE))))
    assert documented == set(yaml.safe_load(ACTION.read_text())["inputs"])
