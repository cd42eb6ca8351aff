"""`lbench history --committed`: rows of earlier versions of result files, from git."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightning_bench.errors import UsageError
from lightning_bench.history.series import read_history
from tests.support.paths import ROOT

FWD, BWD = "lightning2/fwd/b1", "lightning2/bwd/b1"
COMMITS = ("aaa", "bbb", "ccc")


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout


@pytest.fixture
def repository(sides: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a repository whose file was measured three times: twice in commits, and once since then.

    The backward row is kept from version to version. Other CSVs are no results.
    """
    folder = tmp_path / "mine"
    folder.mkdir()
    git(folder, "init", "--quiet")
    kept = sides.row(BWD, harness_commit="aaa", median_ms=5.0)
    for number, commit in enumerate(COMMITS):
        time = f"2026-01-0{number + 1}T00:00:00+00:00"
        row = sides.row(FWD, harness_commit=commit, time_utc=time, median_ms=3.0 - number)
        path = folder / "results" / "speed.csv"
        path.unlink(missing_ok=True)
        with sides.ResultFile(path) as file:
            file.append(row)
            file.append(kept)
        (folder / "results" / "ceilings.csv").write_text(f"copy_gbps\n{number}\n")
        if commit != COMMITS[-1]:
            git(folder, "add", ".")
            git(folder, "commit", "--quiet", "-m", commit)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("path", ["results", "results/speed.csv"])
def test_rows_of_earlier_commits_are_points(lbench: Callable[..., Any], repository: Path, path: str) -> None:
    def labels(*more: str) -> list[str]:
        points = json.loads(lbench("history", path, "--case", FWD, "--json", *more).out)["points"]
        return [point["label"] for point in points]

    assert labels() == ["ccc"]
    assert labels("--committed") == list(COMMITS)
    assert len(read_history([Path(path)], committed=True)) == 4  # the backward row is one row


def test_a_file_that_was_removed_since_is_a_part_of_its_folder_s_history(repository: Path) -> None:
    git(repository, "mv", "-f", "results/speed.csv", "results/renamed.csv")
    assert len(read_history([Path("results")], committed=True)) == 4


def test_without_git_the_message_names_the_file(
    sides: Any, lbench: Callable[..., Any], tmp_path: Path
) -> None:
    path = sides.write(tmp_path / "x.csv", {FWD: 1.0})
    with pytest.raises(UsageError, match=rf"--committed cannot read the history of {path}: .*not a git"):
        read_history([path], committed=True)
    assert lbench("history", path, "--committed").code == 2


def test_a_shallow_clone_says_that_commits_are_missing(
    lbench: Callable[..., Any], repository: Path, tmp_path: Path
) -> None:
    git(tmp_path, "clone", "--quiet", "--depth=1", repository.as_uri(), "clone")
    ran = lbench("history", tmp_path / "clone" / "results", "--case", FWD, "--committed")
    assert "git fetch --unshallow" in ran.err
    assert "git fetch" not in lbench("history", "results", "--case", FWD, "--committed").err


def test_the_example_of_the_docs_is_what_the_command_prints(
    lbench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    text = (ROOT / "docs/compare.md").read_text()
    _, _, example = text.partition("```console\n$ lbench history ")
    command, *lines = example.partition("\n```")[0].splitlines()
    if len(git(ROOT, "log", "--format=%h", "--", "results/h200/paper-speed.csv").split()) < len(lines) - 3:
        pytest.skip("this clone lacks the commits of the example")
    ran = lbench("history", *command.split())
    assert (ran.out + ran.err).splitlines() == lines
    assert len(lines) > 4
