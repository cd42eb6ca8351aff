"""The list of committed files: it has all of them, and its commands are accepted."""

from __future__ import annotations

import argparse
import re
import runpy
import shlex
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import pytest
from typer.testing import CliRunner

from benchmarks import run_all
from benchmarks.committed_files import CPU_FILES, FILES, CommittedFile, is_sweep, planned_cases
from lightning_bench.case import Metric
from lightning_bench.cli.app import app
from lightning_bench.record.codec import read_cells
from tests.support.paths import ROOT

RESULTS = ROOT / "results"
COMMANDS = [command for file in (*FILES, *CPU_FILES) for command in file.commands]


def test_the_list_has_every_committed_csv_once() -> None:
    files = (*FILES, *CPU_FILES)
    folders = {file.folder for file in files}
    assert folders == {path.name for path in RESULTS.iterdir() if path.is_dir()} - {"published", "unfinished"}
    assert {file.folder for file in CPU_FILES} == {"cpu"}
    committed = {
        path.relative_to(RESULTS).as_posix()
        for folder in folders
        for path in (RESULTS / folder).rglob("*.csv")
    }
    within = {"h200/profile/kernels.csv", "h200/profile/tensors.csv"}  # of the folder of profile/calls.csv
    listed = [file.path for file in files]
    assert committed - within <= set(listed)
    assert len({file.name for file in files}) == len(set(listed)) == len(listed)


def test_no_sweep_has_a_case_twice() -> None:
    sweeps = [file for file in (*FILES, *CPU_FILES) if all(map(is_sweep, file.commands))]
    there = [RESULTS / file.path for file in sweeps if (RESULTS / file.path).exists()]
    assert len(there) > 20
    for path in there:
        cases = Counter((row["case_id"], row["metric"], row["protocol"]) for row in read_cells(path))
        assert [case for case, count in cases.items() if count > 1] == [], path.name


def test_what_the_readme_says_of_older_files_is_of_the_commits_in_their_rows() -> None:
    """A line on how a file was measured otherwise goes when the file is measured anew."""
    text = (
        (RESULTS / "h200" / "README.md").read_text().split("## Measured in other ways\n")[1].split("\n## ")[0]
    )
    said = re.findall(r"^- (\S+\.csv)(?: \((.*?)\))?:", text, re.MULTILINE)
    assert len(said) == text.count("\n- ")
    for name, commits in said:
        rows = read_cells(RESULTS / "h200" / name)
        measured = dict.fromkeys(row["harness_commit"] for row in rows if row.get("harness_commit"))
        assert commits == ", ".join(measured), (
            f"delete or correct the line on {name} in results/h200/README.md"
        )


def test_every_suite_of_a_gpu_is_in_the_list() -> None:
    suites = {shlex.split(command)[2] for command in COMMANDS if is_sweep(command)}
    assert suites == {path.stem for path in (ROOT / "suites").glob("*.toml")} - {"quick", "systems-quick"}


class ParsedError(Exception):
    """The arguments of a script were accepted."""


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_accepted(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program, *words = shlex.split(command.replace("{}", "folder"))
    if is_sweep(command):
        assert planned_cases(command)
        out = "" if "--out" in words else " --out rows.csv"
        assert planned_cases(f"{command} --quiet{out}") == planned_cases(command)
    elif program == "lbench":
        done = CliRunner().invoke(app, [*words, "--help"])  # which an unknown option precedes
        assert done.exit_code == 0, done.output
    elif words[0] == "-m" and not words[1].startswith("benchmarks."):
        package = words[1].partition(".")[0]
        pytest.importorskip(package)
        assert package in {name for file in FILES if command in file.commands for name in file.needs}
        assert find_spec(words[1])
    else:
        pytest.importorskip("triton")
        parse = argparse.ArgumentParser.parse_args

        def parse_and_stop(parser: argparse.ArgumentParser, given: Any = None) -> None:
            parse(parser, given)
            raise ParsedError

        monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
        script = Path(*words[1].split(".")).with_suffix(".py") if words[0] == "-m" else Path(words[0])
        monkeypatch.setattr(sys, "argv", words[words[0] == "-m" :])
        monkeypatch.syspath_prepend(ROOT / "benchmarks")
        with pytest.raises(ParsedError):
            runpy.run_path(str(ROOT / script), run_name="__main__")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_command_fits_into_a_part_of_eight_minutes(file: CommittedFile) -> None:
    """One that goes on where it was fits into any; the others must end in it."""
    assert all(run_all.needed_s(file, command) < 480 - run_all.GRACE_S for command in file.commands)


def test_an_option_that_is_unknown_is_not_accepted() -> None:
    assert CliRunner().invoke(app, ["verify", "--nonsense", "--help"]).exit_code == 2
    with pytest.raises(RuntimeError, match="exit code"):
        planned_cases("lbench speed paper --nonsense")
    with pytest.raises(RuntimeError, match="no-such-suite"):
        planned_cases("lbench speed no-such-suite")


def test_sweeps_are_those_commands_that_take_out() -> None:
    assert all(is_sweep(f"lbench {metric} paper") for metric in get_args(Metric))
    assert not is_sweep("lbench verify a.csv")
    assert not is_sweep("python benchmarks/speed.py")
