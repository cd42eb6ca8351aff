"""What a sweep writes where: data to stdout, narration to stderr, a live display only on a terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from lightning_bench.record import Record
from tests.support.forked_workers import FORKED
from tests.support.patience import PATIENCE_S

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("forked_workers")]

PLAIN_OUT = """\
story-check_fwd-batch1-head2-qk_dim16-v_dim16-dtype_fp32
  (worst relative L2 error against fp64)
  needs-gpu: unavailable: needs a CUDA device

"""


class Screen(NamedTuple):
    code: int
    raw: str
    lines: list[str]


def emulate(raw: str, width: int) -> list[str]:
    """Return what a terminal shows in the end: the cursor moves up, lines are erased and written over."""
    lines, row, column = [""], 0, 0
    for control, text in re.findall(r"(\x1b\[[0-9;?]*[A-Za-z]|[\r\n])|([^\x1b\r\n]+)", raw):
        if control == "\r":
            column = 0
        elif control == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif control.endswith("A"):
            row -= int(control[2:-1] or 1)
        elif control == "\x1b[2K":
            lines[row] = ""
        elif text:
            line = lines[row].ljust(column)
            lines[row] = line[:column] + text + line[column + len(text) :]
            column += len(text)
            assert column <= width, lines[row]
    return [line.rstrip() for line in lines]


def on_terminal(workspace: Any, width: int, *arguments: str, code: str = "") -> Screen:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    process: subprocess.Popen[bytes] = workspace.start(
        *arguments, stdin=theirs, stdout=theirs, stderr=theirs, terminal=True, code=code
    )
    os.close(theirs)
    raw = b""
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # how Linux says that nobody has the other end open
            break
        if not chunk:
            break
        raw += chunk
    os.close(ours)
    text = raw.decode()
    return Screen(process.wait(timeout=PATIENCE_S), text, emulate(text, width))


@pytest.fixture(scope="module")
def screens(workspace: Any) -> dict[int, Screen]:
    workspace.suite(["Good", "Raises", "NeedsGpu"], seq_len=[64, 128])
    command = ["speed", "story.toml", "--out", "out.csv"]
    first = on_terminal(workspace, 80, *command)
    return {80: first, 120: on_terminal(workspace, 120, *command, "--retry", code=FORKED)}


@pytest.mark.slow
@pytest.mark.parametrize("width", [80, 120])
def test_terminal_shows_rows_a_bar_a_table_and_where_the_file_lies(
    screens: dict[int, Screen], width: int
) -> None:
    screen = screens[width]
    assert screen.code == 1
    crashed = [
        at for at, line in enumerate(screen.lines) if line.startswith("crashed     raises/fwd/b1-h2-n")
    ]
    assert len(crashed) == 2
    assert all("  ZeroDivisionError" in screen.lines[at] + screen.lines[at + 1] for at in crashed)
    (bar,) = [line for line in screen.lines if "━" in line]
    assert re.search(r"^story speed ━+ 6/6 \d:\d\d:\d\d$", bar)
    heading = screen.lines.index(next(line for line in screen.lines if line.startswith("story-speed_fwd")))
    assert heading > screen.lines.index(bar)
    cells = [line.split() for line in screen.lines[heading:]]
    for n in ("64", "128"):
        row = next(cell for cell in cells if cell[:1] == [n])  # a note may wrap before another
        assert float(row[1].rstrip("*")) > 0
        assert row[2:] == ["crashed"]
    counts = next(line for line in screen.lines[heading:] if line.startswith("story speed: "))
    assert {"2 crashed", "2 unavailable"} <= set(re.split(", | in |: ", counts))
    assert [line for line in screen.lines if line][-1] == "results: out.csv"


def test_a_message_on_a_terminal_breaks_between_words(workspace: Any) -> None:
    screen = on_terminal(workspace, 40, "check", "nope")
    assert screen.code == 2
    assert max(map(len, screen.lines)) <= 40
    assert {"suites`", "lists,"} <= {word for line in screen.lines for word in line.split()}
    path = f"{'long-' * 20}.toml"  # whole, and not at its hyphens, to be copied
    assert f"{path}:" in on_terminal(workspace, 109, "check", path).raw.split()


def test_display_is_live(screens: dict[int, Screen]) -> None:
    raw = screens[80].raw
    for seen in ("\x1b[2K", "\x1b[1A", "  starting a worker", "0:00:01"):
        assert seen in raw
    # The cursor comes back.
    assert raw.rindex("\x1b[?25h") > raw.rindex("\x1b[?25l")


def test_resumed_display_counts_what_stands(screens: dict[int, Screen]) -> None:
    # Two are unavailable; the good ones stand too, unless they were unstable.
    assert re.fullmatch(r"story speed: 6 cases, [234] of them recorded already", screens[120].lines[0])
    assert not [line for line in screens[120].lines if line.startswith("unavailable ")]


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory, workspace: Any) -> subprocess.CompletedProcess[str]:
    providers = "lightning2-torch,lightning2"
    axes = ["--seq-len", "256", "--direction", "fwd,bwd", "--provider", providers, "--device", "cpu"]
    return workspace.run("memory", "quick", *axes, "--json", "--out", workspace.folder / "memory.csv")


@pytest.mark.slow
def test_stdout_holds_only_json(memory: subprocess.CompletedProcess[str]) -> None:
    assert memory.returncode == 0
    (data,) = json.loads(memory.stdout)
    assert (data["suite"], data["metric"], data["protocol"]) == ("quick", "memory", "lbench")
    assert data["counts"] == {"ok": 2, "unavailable": 2}
    assert Path(data["results"]).is_file()
    assert 0 <= data["overhead_percent"] <= 100
    assert data["phases_s"]["start"] > 0
    assert {record["status"] for record in data["records"]} == {"ok", "unavailable"}
    Record(**data["records"][0])


def test_memory_figures(memory: subprocess.CompletedProcess[str]) -> None:
    (data,) = json.loads(memory.stdout)
    rows = {record["direction"]: record for record in data["records"] if record["status"] == "ok"}
    out_mib = 4 * 256 * 64 * 4 / 2**20
    assert rows["fwd"]["ideal_mib"] == out_mib
    assert rows["fwd"]["extra_mib"] >= out_mib
    assert rows["fwd"]["saved_mib"] is None
    assert rows["bwd"]["ideal_mib"] == 3 * out_mib
    assert rows["bwd"]["extra_mib"] >= 3 * out_mib
    assert rows["bwd"]["saved_mib"] >= 0
    assert rows["bwd"]["median_ms"] is None


def test_progress_is_plain_lines_on_stderr(memory: subprocess.CompletedProcess[str]) -> None:
    lines = memory.stderr.splitlines()
    assert lines[0] == "quick memory: 4 cases"
    assert lines[1] == ("[1/4] unavailable lightning2/fwd/b1-h4-n256-d64-e64-fp32-cpu  needs a CUDA device")
    assert re.fullmatch(
        r"\[3/4\] ok          lightning2-torch/fwd/b1-h4-n256-d64-e64-fp32-cpu  [\d.]+ MiB", lines[3]
    )
    assert "\x1b" not in memory.stderr
    assert lines[-1].startswith("results: ")


@pytest.mark.slow
def test_quiet_prints_nothing(lbench: Callable[..., Any], new_workspace: Any) -> None:
    axes = ["--seq-len", "256", "--direction", "fwd_bwd", "--provider", "lightning2-torch", "--device", "cpu"]
    command = ["check", "quick", *axes, "--out", new_workspace.out]
    ran = lbench(*command, "--quiet", "--time-limit", "inf")
    assert ran == (0, "", "")
    ran = lbench(*command)
    assert "256           1" in re.sub(r"\d\.\de-07", "1", ran.out)
    assert "quick check: 1 ok in 0 s" in ran.err.splitlines()


def test_quiet_json_prints_only_data(lbench: Callable[..., Any], new_workspace: Any) -> None:
    ran = lbench("check", new_workspace.suite(["NeedsGpu"]), "--out", new_workspace.out, "--quiet", "--json")
    assert json.loads(ran.out)[0]["counts"] == {"unavailable": 1}
    assert ran.err == ""


def test_errors_are_printed_even_with_quiet(lbench: Callable[..., Any]) -> None:
    ran = lbench("check", "nope", "--quiet")
    assert ran.code == 2
    assert ran.err.startswith("lbench: there is no suite `nope`")


def test_tables_go_to_stdout_and_the_rest_to_stderr(lbench: Callable[..., Any], new_workspace: Any) -> None:
    ran = lbench("check", new_workspace.suite(["NeedsGpu"]), "--out", new_workspace.out)
    assert ran.out == PLAIN_OUT
    assert ran.err.splitlines() == [
        "story check: 1 case",
        "[1/1] unavailable needs-gpu/fwd/b1-h2-n64-d16-e16-fp32-cpu  needs a CUDA device",
        "story check: 1 unavailable in 0 s",
        f"results: {new_workspace.out}",
    ]
