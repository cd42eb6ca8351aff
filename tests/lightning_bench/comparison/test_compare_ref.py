"""`lbench compare --ref` in a git repository of its own: real workers, real commits, a CPU."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.forked_workers import FORKING_LBENCH, run_forked
from tests.support.paths import ROOT
from tests.support.patience import PATIENCE_S

# Every comparison starts a dozen workers.
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("forked_workers")]

SUITE = """
title = "Story"
description = "For tests."
device = "cpu"
[limits]
time_limit_s = 30.0
sample_limit_s = 0.2
min_samples = 6
max_samples = 30
ci_percent = 5.0
[[group]]
providers = ["lightning2-torch", "bench/mine.py:Mine", "sdpa-math"]
direction = "fwd"
dtype = "fp32"
batch = 1
heads = 2
seq_len = 64
head_dim = 16
"""
MINE = """
import time
from lightning_bench.providers import Inputs, Provider
from mine_kernels import attention

class Mine(Provider):
    name, label, family, package = "mine", "Mine", "softmax", "torch"
    devices, dtypes = ("cpu",), ("fp32",)
    def build(self, inputs):
        return lambda: attention(inputs.q, inputs.k, inputs.v)
"""
KERNEL = """
import time
def attention(q, k, v):
    from torch.nn.functional import scaled_dot_product_attention
    end = time.perf_counter() + {seconds}
    out = scaled_dot_product_attention(q, k, v, is_causal=True)
    time.sleep(max(0.0, end - time.perf_counter()))  # unlike a busy loop, woken on time on a busy machine
    return out
"""


class Repository:
    """A kernel author's repository: bundled kernels changed, one of one's own, and a suite."""

    def __init__(self, root: Path) -> None:
        self.root = root
        shutil.copytree(
            ROOT / "kernels" / "lightning_kernels",
            root / "kernels" / "lightning_kernels",
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        (root / "bench").mkdir()
        (root / "bench" / "mine.py").write_text(MINE)
        (root / "suite.toml").write_text(SUITE)
        self.git("init", "-q", "-b", "main")
        self.kernel(0.01)
        self.commit("first")

    def git(self, *arguments: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
        done = subprocess.run(
            ["git", *who, *arguments], cwd=self.root, capture_output=True, text=True, check=True
        )
        return done.stdout

    def kernel(self, seconds: float) -> None:
        (self.root / "kernels" / "mine_kernels.py").write_text(KERNEL.format(seconds=seconds))

    def commit(self, message: str) -> None:
        self.git("add", "-A")
        self.git("commit", "-qm", message)

    def environment(self) -> dict[str, str]:
        # The bundled kernels of this machine's installation come last, as in a user's environment.
        given = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels'}", "OMP_NUM_THREADS": "1"}
        return {name: value for name, value in os.environ.items() if name != "GITHUB_STEP_SUMMARY"} | given

    def compare(
        self, *arguments: str, folder: Path | None = None, path: Path | None = None
    ) -> tuple[int, str, str]:
        """Run `lbench compare`; `path` is one more folder on its import path, as PYTHONPATH names them."""
        code = f"import sys; sys.path.append({str(path)!r})" if path else ""
        ran = run_forked(
            "compare", *arguments, folder=folder or self.root, environment=self.environment(), code=code
        )
        assert self.git("worktree", "list").count("\n") == 1, "the worktree was left behind"
        return ran.returncode, ran.stdout, ran.stderr


def verdicts(out: str) -> dict[str, Any]:
    return {f"{cell['provider']} {cell['metric']}": cell for cell in json.loads(out)["cells"]}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    return Repository(tmp_path_factory.mktemp("repository"))


def test_a_slowdown_and_a_crash_at_import_are_caught_and_committed_or_not(repository: Repository) -> None:
    """Head: one kernel takes five times as long, uncommitted; the other cannot be imported any more."""
    repository.kernel(0.05)
    broken = repository.root / "kernels" / "lightning_kernels" / "__init__.py"
    whole = broken.read_text()
    broken.write_text('raise RuntimeError("half a merge")\n')
    out = repository.root / "out"
    try:
        code, text, err = repository.compare(
            *(
                "--ref",
                "HEAD",
                "suite.toml",
                "--pairs",
                "6",
                "--json",
                "--metric",
                "speed",
                "--out",
                str(out),
            ),
        )
    finally:
        repository.git("checkout", "-q", "kernels")
    assert code == 1, err
    cells = verdicts(text)
    assert {name: cell["verdict"] for name, cell in cells.items()} == {
        "mine speed": "SLOWER",
        "lightning2-torch speed": "BROKEN",
    }
    assert cells["mine speed"]["ratio"] > 2
    assert (cells["mine speed"]["base_blocks"], cells["mine speed"]["paired"]) == (6, True)
    assert "half a merge" in cells["lightning2-torch speed"]["detail"]
    assert "changes that are not committed: they are measured too" in err
    assert "left out, since no commit changes them: sdpa-math" in err
    assert broken.read_text() == whole
    rows = (out / "base.csv").read_text().splitlines()
    assert sum("mine/fwd" in row for row in rows) == 6
    assert sum("lightning2-torch/fwd" in row for row in rows) == 1, "what is broken is not run again"


def test_a_folder_that_the_other_commit_lacks_and_refs_and_places_that_are_not_there(
    repository: Repository, tmp_path: Path
) -> None:
    code, _, err = repository.compare("--ref", "no-such-branch", "suite.toml")
    assert code == 2
    assert "--ref 'no-such-branch' names no commit of" in err
    code, _, err = repository.compare("--ref", "--help", "suite.toml")
    assert code == 2
    code, _, err = repository.compare("--ref", "HEAD", str(repository.root / "suite.toml"), folder=tmp_path)
    assert code == 2
    assert "--ref needs a git repository" in err
    (repository.root / "other").mkdir(exist_ok=True)
    code, _, err = repository.compare("--ref", "HEAD", "suite.toml", "--kernels", "other")
    assert code == 2
    assert "HEAD has no folder other" in err
    code, _, err = repository.compare("--ref", "HEAD", "suite.toml", "--kernels", "nowhere")
    assert code == 2
    assert "no such folder" in err
    code, _, err = repository.compare(
        "--ref", "HEAD", "suite.toml", "--provider", "sdpa-math", "--metric", "time"
    )
    assert code == 2
    assert "--metric 'time' is not known" in err


def test_a_terminated_comparison_leaves_no_worktree(repository: Repository) -> None:
    process = subprocess.Popen(
        [*FORKING_LBENCH, "compare", "--ref", "HEAD", "suite.toml", "--pairs", "50"],
        cwd=repository.root,
        env=repository.environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("[1/"):
            break
    assert repository.git("worktree", "list").count("\n") == 2
    process.terminate()
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 143
    assert repository.git("worktree", "list").count("\n") == 1


def test_a_worktree_that_a_killed_comparison_left_goes_with_the_next(
    repository: Repository, tmp_path: Path
) -> None:
    from lightning_bench.run.worktree import checked_out, working_tree

    left = tmp_path / "lbench-ref-999999999-x"
    repository.git("worktree", "add", "--detach", str(left), "HEAD")
    with checked_out(working_tree(repository.root), "main") as other:
        assert not left.exists()
        assert (other.root / "suite.toml").is_file()
    assert not other.root.exists()


def test_memory_of_both_commits_is_compared_and_equal_trees_are_the_same(repository: Repository) -> None:
    code, text, err = repository.compare(
        "--ref", "main", "suite.toml", "--metric", "memory", "--provider", "lightning2-torch", "--json"
    )
    assert code == 0, err
    assert verdicts(text)["lightning2-torch memory"]["verdict"] == "SAME"


def test_only_what_the_diff_touches_is_measured(repository: Repository, tmp_path: Path) -> None:
    """One kernel is changed and the other not; then nothing is, which passes and says so in every format."""
    words = ("--ref", "main", "suite.toml", "--from-diff", "--pairs", "2", "--metric", "memory", "--json")
    mine = repository.root / "kernels" / "mine_kernels.py"
    mine.write_text(mine.read_text() + "# changed\n")
    try:
        code, text, err = repository.compare(*words)
    finally:
        repository.git("checkout", "-q", "kernels")
    assert code == 0, err
    assert set(verdicts(text)) == {"mine memory"}
    assert "left out, since the diff does not touch them: lightning2-torch" in err

    junit = tmp_path / "junit.xml"
    (repository.root / "notes.md").write_text("not of a kernel\n")
    try:
        code, text, err = repository.compare(*words, "--junit", str(junit))
    finally:
        (repository.root / "notes.md").unlink()
    data = json.loads(text)
    assert (code, data["cells"], data["exit_code"]) == (0, [], 0), err
    assert data["headline"] == "Nothing to measure: the diff against main touches no provider of suite"
    assert '<testsuite name="lbench compare" tests="0" failures="0"' in junit.read_text()
    code, text, err = repository.compare(*words[:-1], "--markdown")
    assert (code, text.partition("\n")[0]) == (0, f"### ✅ lbench: {data['headline']}"), err


def test_a_folder_of_the_repository_on_the_import_path_is_that_of_each_commit(repository: Repository) -> None:
    """Head's helper is wrong. Base imported it too, so that nothing was found."""
    parts = repository.root / "parts"
    parts.mkdir()
    helper = parts / "mine_parts.py"
    helper.write_text(KERNEL.format(seconds=0.0))
    (repository.root / "bench" / "linked.py").write_text(MINE.replace("mine_kernels", "mine_parts"))
    repository.commit("a helper beside the kernels")
    helper.write_text(helper.read_text().replace("is_causal=True", "is_causal=False"))
    words = ("--ref", "main", "suite.toml", "--provider", "bench/linked.py:Mine", "--metric", "memory")
    code, text, err = repository.compare(*words, "--json", path=parts)
    assert code == 1, err
    assert verdicts(text)["mine memory"]["verdict"] == "BROKEN"
