"""The README: short, its links lead somewhere, its commands and examples run, its output is of a real run."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from lightning_bench.case import FAMILIES
from lightning_bench.machine import describe_machine
from lightning_bench.machine.ceilings import keep
from lightning_bench.measure.device.peaks import measure_device
from lightning_bench.record import read_records
from lightning_bench.suite import bundled_suites
from tests.support.documents import README, anchors, block, file_behind, links
from tests.support.forked_workers import run_forked
from tests.support.paths import ROOT
from tests.support.patience import PATIENCE_S

MINE = block(README, "python", "def attn")
IN_PYTHON = block(README, "python", "import lightning_bench as lb")


def test_it_is_short_and_begins_with_what_a_reader_decides_by() -> None:
    lines = README.splitlines()
    assert len(lines) <= 200
    order = ["![", "| figure |", "## Install", "make bench", "$ lbench", "## Is my kernel", "## What makes a"]
    order += ["## Compared with", "## Commands by task", "## Links"]
    places = [next(n for n, line in enumerate(lines) if mark in line) for mark in order]
    assert places == sorted(places)
    assert places[order.index("$ lbench")] < 60
    headlines = lines[places[1] + 2 : places[1] + 5]
    assert all(line.startswith("| **") for line in headlines)
    assert all("/results/h200/" in line for line in headlines), "a headline links the rows behind it"


def test_links_are_absolute_and_those_into_the_repository_lead_somewhere() -> None:
    """So that the page works on PyPI, too."""
    found = links(README)
    assert len(found) > 20
    assert [link for link in found if not link.startswith("https://")] == []
    into = {link: path for link in found if (path := file_behind(link))}
    assert len(into) > 15
    assert [link for link, path in into.items() if not path.exists()] == []
    for link, path in into.items():
        if "#" in link:
            assert link.partition("#")[2] in anchors(path.read_text()), link


def test_the_output_that_it_shows_is_of_the_log_that_it_names() -> None:
    shown = block(README, "console", "$ lbench speed paper").splitlines()[1:]
    log = (ROOT / "results" / "h200" / "logs" / "paper-speed.log").read_text().splitlines()
    places = [log.index(line) for line in shown if line != "..."]
    assert len(places) >= 8
    assert places == sorted(places)


def test_figures_of_the_text_are_those_of_the_code() -> None:
    assert f"lists the {len(FAMILIES)}\nfamilies" in README or f"lists the {len(FAMILIES)} families" in README
    assert {"paper", "quick", "dims"} <= set(bundled_suites())


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
    if "--gpus" in words:
        words[words.index("--gpus") + 1] = "cpu:1"
        words += ["--dry-run"]
    elif words[0] in ("speed", "memory", "check", "energy", "train", "generate"):
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
        (folder / "mine.py").write_text(MINE)
    if words[0] == "merge":
        folder = tmp_path.with_name(f"{tmp_path.name}-inputs")
        results = folder / "results" / "h200"
        results.mkdir(parents=True)
        rows = pd.read_csv(ROOT / "results" / "h200" / "paper-speed.csv")
        for number in range(4):
            rows.iloc[number::4].to_csv(results / f"paper-speed-shard{number + 1}of4.csv", index=False)
        words[1:] = [str(path.relative_to(folder)) for path in folder.glob(words[1])]
    writes = "--out" in words
    if words[0] == "report" and writes:  # a plot of every figure of two files, rather than of all
        folder = tmp_path.with_name(f"{tmp_path.name}-inputs")
        results = folder / "results" / "h200"
        results.mkdir(parents=True)
        for name in ("parallelism-speed.csv", "paper-memory.csv"):
            shutil.copy(ROOT / "results" / "h200" / name, results)
    if writes:
        words[words.index("--out") + 1] = str(tmp_path / "made")
    browser = {"BROWSER": "true %s"}  # what --open starts
    done = run_forked(*words, folder=folder, environment=os.environ | browser)
    assert done.returncode == 0, done.stderr
    assert done.stderr if writes or words[0] == "merge" else done.stdout
    assert [path.name for path in tmp_path.iterdir()] == (["made"] if writes else [])


@pytest.mark.slow
def test_its_kernel_is_measured_in_python(tmp_path: Path) -> None:
    """On a CPU, where flash2 has rows `unavailable`."""
    assert len([line for line in IN_PYTHON.splitlines() if line]) <= 5
    call = IN_PYTHON.replace("1024, 4096", "32, 64")
    call = call.replace("seq_len=", 'direction="fwd", quick=True, device="cpu", seq_len=')
    (tmp_path / "script.py").write_text(MINE + call + "print(*sorted(set(result.df['status'])))\n")
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env=os.environ | {"LBENCH_LOAD": "ignore"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    assert "attn" in done.stdout
    assert "attn against sdpa-flash" in done.stdout
    assert {"unavailable"} < set(done.stdout.splitlines()[-1].split()) <= {"unavailable", "ok", "unstable"}


@pytest.mark.slow
def test_its_kernel_is_measured_on_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    (line,) = re.findall(r"^lbench (speed --kernel .*)$", README, re.MULTILINE)
    words = [*line.replace("1024,4096", "32").split(), "--device", "cpu", "--out", "out.csv", "--quick"]
    done = run_forked(*words, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    statuses = {(r.provider, r.status) for r in read_records(tmp_path / "out.csv")}
    assert {name for name, _ in statuses} == {"attn", "sdpa-flash", "flash2"}
    assert ("flash2", "unavailable") in statuses
