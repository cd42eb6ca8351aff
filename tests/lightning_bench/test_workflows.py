"""The workflows and docs/ci.md: every `lbench` in them is a call that the command line takes."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import typer

ROOT = Path(__file__).parents[2]
FILES = [
    *sorted((ROOT / ".github" / "workflows").glob("*.yml")),
    ROOT / "docs" / "ci.md",
    ROOT / "docs" / "compare.md",
]


def calls(path: Path) -> list[list[str]]:
    """The words of each call, up to what the shell does with it."""
    found = []
    for line in path.read_text().splitlines():
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


@pytest.mark.parametrize("path", FILES[:-2], ids=lambda path: path.name)
def test_the_shell_takes_the_scripts_of_the_workflows(path: Path) -> None:
    text = path.read_text()
    blocks = re.findall(r"run: \|\n((?:          .*\n)+)", text) + re.findall(r"run: ([^|\n].*)", text)
    assert len(blocks) >= 4
    for block in blocks:
        subprocess.run(["bash", "-n", "-c", block], check=True)
    assert "pull_request_target" not in text
