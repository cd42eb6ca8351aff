"""The live display by itself: never wider than the terminal, and no estimate without grounds."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from lightning_bench.cli.commands.sweep import phase_shares
from lightning_bench.record import Record
from lightning_bench.run.progress import (
    LiveWatcher,
    PlainWatcher,
    QuietWatcher,
    make_watcher,
    record_line,
    record_lines,
)
from lightning_bench.run.sweep import Summary


def record(status: Any = "ok", **changes: Any) -> Record:
    values: dict[str, Any] = {
        "metric": "speed",
        "protocol": "lbench",
        "status": status,
        "case_id": "lightning2-torch/fwd_bwd/b4-h32-n1048576-d128-e128-bf16-cuda",
        "provider": "lightning2-torch",
        "family": "linear_decay",
        "direction": "fwd_bwd",
        "dtype": "bf16",
        "batch": 4,
        "heads": 32,
        "seq_len": 1048576,
        "head_dim": 128,
        "value_dim": 128,
        "device": "cuda",
    }
    return Record(**(values | changes))


ROWS = [
    record("unavailable", reason="needs a CUDA device"),
    record(median_ms=12.3456789),
    record("crashed", reason="RuntimeError: " + "a long story " * 30),
    record("wrong", reason="o is off by 1.0e-02 relative L2, the budget is 2.1e-06"),
]


def shown(width: int, rows: list[Record], total: int) -> str:
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=30, _environ={})
    with LiveWatcher(console, "paper speed") as watcher:
        watcher.started(total, [])
        for row in rows:
            watcher.entered(row.case_id, "warm-up")
            watcher.draw()
            watcher.recorded(row)
            watcher.draw()
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def plain(raw: str) -> list[str]:
    return re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", raw))


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_nothing_is_wider_than_the_terminal(width: int) -> None:
    lines = plain(shown(width, ROWS, len(ROWS)))
    assert max(map(len, lines)) <= width
    for row in ROWS:  # what does not fit continues below
        assert len([line for line in lines if line.startswith(f"{row.status} ")]) == 1


def test_what_does_not_fit_continues_below_in_whole_words() -> None:
    lines = [line.plain for line in record_lines(ROWS[3], 80)]
    assert lines == [f"wrong       {ROWS[3].case_id}", f"            {ROWS[3].reason}"]
    assert set(lines) <= {line.rstrip() for line in plain(shown(80, ROWS, len(ROWS)))}


def test_a_case_longer_than_the_line_is_broken_at_a_hyphen() -> None:
    lines = [line.plain for line in record_lines(ROWS[1], 40)]
    assert lines[0] == "ok          lightning2-torch/fwd_bwd/b4-"
    assert "".join(line[12:] for line in lines) == f"{ROWS[1].case_id}  12.3457 ms"


def test_a_reason_is_not_cut_but_by_its_own_length() -> None:
    shown = [line.plain.strip() for line in record_lines(ROWS[2], 80)][1:]
    assert " ".join(shown) == ROWS[2].reason
    endless = replace(ROWS[2], reason="so " * 400)
    last = [line.plain for line in record_lines(endless, 80)][-1]
    assert last.endswith("so …")


def test_time_left_is_not_estimated_from_rows_that_took_no_time() -> None:
    assert "left" not in shown(120, ROWS[:1], 100)
    assert re.search(r"about \d+ (s|min) left", shown(120, ROWS[:2], 100))
    assert "left" not in shown(120, ROWS[1:2], 1)


def test_only_times_have_overhead() -> None:
    summary = Summary([], 10.0, {"start": 7.0, "samples": 2.0, "oracle": 0.5, "load": 0.01})
    shares = "start 70 %, samples 20 %, oracle 5 %"
    words = "; 75 % of it is overhead: all but oracle, samples, warm-up"
    assert phase_shares(summary, "speed") == shares + words
    assert phase_shares(summary, "check") == phase_shares(summary, "memory") == shares


def test_the_current_case_is_not_shown_at_the_end() -> None:
    lines = [line for line in plain(shown(120, ROWS, len(ROWS))) if line.strip()]
    assert any(line.startswith("  warm-up: lightning2-torch/") for line in lines)
    assert not lines[-1].startswith("  warm-up")
    assert "4/4" in lines[-1]


def test_one_line_per_row() -> None:
    assert record_line(ROWS[1]).plain == f"ok          {ROWS[1].case_id}  12.3457 ms"
    assert record_line(ROWS[0]).plain == f"unavailable {ROWS[0].case_id}  needs a CUDA device"
    marked = record("crashed", reason="[bold]not markup[/bold] [red]")
    assert record_line(marked).plain.endswith("[bold]not markup[/bold] [red]")


def test_the_watcher_depends_on_the_stream() -> None:
    pipe = Console(file=io.StringIO(), _environ={})
    terminal = Console(file=io.StringIO(), force_terminal=True, _environ={})
    assert type(make_watcher(pipe, "x", quiet=False)) is PlainWatcher
    assert type(make_watcher(terminal, "x", quiet=False)) is LiveWatcher
    assert type(make_watcher(terminal, "x", quiet=True)) is QuietWatcher


def test_lines_say_which_tree_is_measured() -> None:
    pipe = Console(file=io.StringIO(), width=200, _environ={})
    watcher = PlainWatcher(pipe, "quick speed")
    watcher.started(2, [])
    for side, row in (("base 1a2b3c", ROWS[1]), ("head 4d5e6f", ROWS[0])):
        watcher.measuring(side)
        watcher.recorded(row)
    assert isinstance(pipe.file, io.StringIO)
    _, base, head = pipe.file.getvalue().splitlines()
    assert base.startswith("[1/2] base 1a2b3c: ok ")
    assert head.startswith("[2/2] head 4d5e6f: unavailable ")
    console = Console(file=io.StringIO(), force_terminal=True, width=80, _environ={})
    with LiveWatcher(console, "quick speed") as live:
        live.started(2, [])
        live.measuring("base 1a2b3c")
        live.recorded(ROWS[3])
    assert isinstance(console.file, io.StringIO)
    lines = plain(console.file.getvalue())
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("base 1a2b3c: wrong ") for line in lines)
