"""One sweep that is interrupted, refused, killed and torn, and ends with every case exactly once."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lightning_bench.record import COLUMNS, read_records
from tests.support.patience import PATIENCE_S

pytestmark = pytest.mark.slow  # workers start in each test

CASES = [f"{name} {n}" for n in (64, 128, 256) for name in ("good", "waits-at-128")]


@dataclass
class Stage:
    """What was there after one step of the story."""

    process: subprocess.CompletedProcess[str]
    csv: bytes
    worker: int = 0


@dataclass
class Story:
    workspace: Any
    stages: dict[str, Stage] = field(default_factory=dict)


@pytest.fixture(scope="module")
def command(workspace: Any) -> list[str | Path]:
    suite = workspace.suite(["Good", "WaitsAt128"], seq_len=[64, 128, 256], limits={"time_limit_s": 120.0})
    return ["speed", suite, "--out", workspace.out]


@pytest.fixture(scope="module")
def story(workspace: Any, command: list[str | Path], wait_gone: Callable[[int], None]) -> Iterator[Story]:
    story = Story(workspace)
    running: list[subprocess.Popen[str]] = []

    def stage(name: str, process: subprocess.CompletedProcess[str], worker: int = 0) -> None:
        story.stages[name] = Stage(process, workspace.out.read_bytes(), worker)

    def broken_off(name: str, end: Callable[[subprocess.Popen[str]], None], *more: str) -> None:
        """Start the sweep, let it come to seq_len 128, where it waits, and end it there."""
        process = workspace.start(*command, *more)
        running.append(process)
        waiting = workspace.appears("waiting")
        worker = int(waiting.read_text())
        waiting.unlink()
        if name == "interrupted":  # a second sweep while the first is at work
            stage("refused", workspace.run(*command))
            assert process.poll() is None
        end(process)
        out, err = process.communicate(timeout=PATIENCE_S)
        stage(name, subprocess.CompletedProcess(command, process.returncode, out, err), worker)
        wait_gone(worker)

    try:
        broken_off("interrupted", lambda process: process.send_signal(signal.SIGINT), "--fresh")
        broken_off("interrupted in the terminal", lambda process: os.killpg(process.pid, signal.SIGINT))
        broken_off("killed", lambda process: process.kill())
        workspace.out.write_bytes(workspace.out.read_bytes()[:-20])
        (workspace.folder / "go").touch()
        stage("resumed", workspace.run(*command))
        stage("again", workspace.run(*command))
        yield story
    finally:
        for process in running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()


def rows(csv: bytes, tmp_path: Path) -> list[str]:
    path = tmp_path / "rows.csv"
    path.write_bytes(csv)
    return [f"{row.provider} {row.seq_len}" for row in read_records(path)]


@pytest.mark.parametrize("name", ["interrupted", "interrupted in the terminal"])
def test_ctrl_c(story: Story, tmp_path: Path, name: str) -> None:
    stage = story.stages[name]
    assert stage.process.returncode == 130
    assert rows(stage.csv, tmp_path) == CASES[:2]
    suite, out = story.workspace.folder / "story.toml", story.workspace.out
    last = stage.process.stderr.splitlines()[-1]
    assert last == f"interrupted; {out} is whole. To go on: lbench speed {suite} --out {out}"
    assert "Traceback" not in stage.process.stderr
    assert "KeyboardInterrupt" not in stage.process.stderr
    assert stage.process.stdout == ""


def test_second_sweep_into_one_file_is_refused(story: Story) -> None:
    refused = story.stages["refused"].process
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert refused.stderr == (
        f"lbench: another lbench sweep is writing {story.workspace.out}; wait for it, or give --out\n"
    )
    assert story.stages["refused"].csv == story.stages["interrupted"].csv


def test_kill_9_leaves_whole_rows(story: Story, tmp_path: Path) -> None:
    killed = story.stages["killed"]
    assert killed.process.returncode == -signal.SIGKILL
    assert rows(killed.csv, tmp_path) == CASES[:2]
    assert killed.csv.endswith(b"\n")


def test_resumed_sweeps_report_existing_rows(story: Story) -> None:
    assert "story speed: 6 cases, 2 of them recorded already" in story.stages["killed"].process.stderr
    assert "story speed: 6 cases, 1 of them recorded already" in story.stages["resumed"].process.stderr


def test_torn_line_is_cut_off_and_its_case_runs_again(story: Story) -> None:
    resumed = story.stages["resumed"].process
    out = story.workspace.out
    torn = f"{out} ended in a torn line, left by an interrupted write: cut off, its case runs again"
    assert torn in resumed.stderr.splitlines()
    assert resumed.returncode == 0
    whole = story.stages["killed"].csv.splitlines(keepends=True)[:2]
    assert story.stages["resumed"].csv.startswith(b"".join(whole))


def test_every_case_once(story: Story) -> None:
    frame = pd.read_csv(story.workspace.out)
    assert list(frame.columns) == list(COLUMNS)
    found = [f"{p} {n}" for p, n in zip(frame["provider"], frame["seq_len"], strict=True)]
    assert found == CASES
    assert set(frame["status"]) <= {"ok", "unstable"}
    assert frame["median_ms"].notna().all()


def test_rows_say_when_their_run_began(story: Story) -> None:
    begun = [row.run_utc for row in read_records(story.workspace.out)]
    assert (len(set(begun)), len(set(begun[1:]))) == (2, 1), (
        "the first row is of the run that was interrupted"
    )
    assert all(row.run_utc <= row.time_utc for row in read_records(story.workspace.out))


def test_complete_sweep_runs_nothing(story: Story) -> None:
    again = story.stages["again"]
    assert again.process.returncode == 0
    assert again.csv == story.stages["resumed"].csv
    assert "story speed: 6 cases, 6 of them recorded already" in again.process.stderr
    assert "story-speed_fwd-batch1-head2-qk_dim16-v_dim16-dtype_fp32" in again.process.stdout
