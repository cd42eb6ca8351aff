"""The live display by itself: never wider than the terminal, and no estimate without grounds."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console

from lightning_bench.record import Record
from lightning_bench.run.progress import (
    LiveWatcher,
    PlainWatcher,
    QuietWatcher,
    make_watcher,
    record_line,
)


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
            watcher._live.refresh()
            watcher.recorded(row)
            watcher._live.refresh()
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def plain(raw: str) -> list[str]:
    return re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", raw))


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_nothing_is_wider_than_the_terminal(width: int) -> None:
    lines = plain(shown(width, ROWS, len(ROWS)))
    assert max(map(len, lines)) <= width
    for row in ROWS:  # one line per row, cut where it is too long
        assert len([line for line in lines if line.startswith(f"{row.status} ")]) == 1


def test_a_cut_line_ends_in_an_ellipsis() -> None:
    lines = plain(shown(80, ROWS, len(ROWS)))
    (crashed,) = [line for line in lines if line.startswith("crashed ")]
    assert crashed.endswith("…")


def test_time_left_is_not_estimated_from_rows_that_took_no_time() -> None:
    assert "left" not in shown(120, ROWS[:1], 100)
    assert re.search(r"about \d+ (s|min) left", shown(120, ROWS[:2], 100))
    assert "left" not in shown(120, ROWS[1:2], 1)


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
