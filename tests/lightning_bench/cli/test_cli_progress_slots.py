"""The progress of several slots: a line for each, and rows that say on which they were measured."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from lightning_bench.run.progress import LiveWatcher, PlainWatcher
from tests.support.report_rows import PAPER

ROW = replace(PAPER, case_id="lightning2/fwd/b4-h32-n512-d128-e128-bf16-cuda", median_ms=1.5)


def console(width: int, *, terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=width, height=30, _environ={})


def text(of: Console) -> list[str]:
    assert isinstance(of.file, io.StringIO)
    return re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", of.file.getvalue()))


@pytest.mark.parametrize("width", [40, 100])
def test_each_slot_has_a_line(width: int) -> None:
    shown = console(width, terminal=True)
    with LiveWatcher(shown, "paper speed") as watcher:
        watcher.started(4, [])
        for slot, phase in (("GPU 0", "warm-up"), ("GPU 1", "start"), ("GPU 2", "oracle"), ("GPU 3", "idle")):
            watcher.on_slot(slot)
            watcher.entered(ROW.case_id if phase == "warm-up" else "", phase)
        watcher.draw()
        lines = [line.strip() for line in text(shown) if line.startswith("  GPU ")]
        assert [line[:5] for line in lines[-4:]] == ["GPU 0", "GPU 1", "GPU 2", "GPU 3"]
        assert lines[-4].startswith("GPU 0: warm-up: lightning2/fwd"[: width - 4])
        assert lines[-3] == "GPU 1: starting a worker"
        assert lines[-1] == "GPU 3: nothing left to do"
        watcher.lost("GPU 1", "it burned down")
        watcher.draw()
        last = [line.strip() for line in text(shown) if line.startswith("  GPU ")]
        assert [line[:5] for line in last[-3:]] == ["GPU 0", "GPU 2", "GPU 3"]
        watcher.on_slot("GPU 2")
        watcher.recorded(ROW)
    assert max(len(line) for line in text(shown)) <= width
    assert any(line.startswith("GPU 2: ok ") for line in text(shown))
    assert any(line.startswith("GPU 1 is lost: it burned down") for line in text(shown))


def test_lines_of_a_log_name_the_slot() -> None:
    log = console(200, terminal=False)
    watcher = PlainWatcher(log, "paper speed")
    watcher.started(2, [])
    watcher.on_slot("GPU 1")
    watcher.measuring("head")
    watcher.recorded(ROW)
    watcher.lost("GPU 0", "it burned down")
    assert text(log)[1:3] == [
        f"[1/2] GPU 1: head: ok          {ROW.case_id}  1.5000 ms",
        "GPU 0 is lost: it burned down",
    ]


def test_hundreds_of_slots_leave_room_for_rows() -> None:
    shown = console(100, terminal=True)
    watcher = LiveWatcher(shown, "paper speed")
    watcher.started(4, [])
    for number in range(512):
        watcher.on_slot(f"node{number:03}")
        watcher.entered("", "start")
    watcher._live.start()
    watcher.draw()
    watcher._live.stop()
    # Each time it is drawn anew; the last one counts.
    lines = [line.strip() for line in text(shown) if line.strip()]
    last = lines[-(30 - 8) :]
    assert last[0] == "node000: starting a worker"
    assert last[-2] == "node020: starting a worker"
    assert last[-1] == f"and {512 - 21} more slots"


def test_an_event_writes_nothing_until_the_display_is_drawn() -> None:
    shown = console(100, terminal=True)
    watcher = LiveWatcher(shown, "paper speed")
    watcher.started(2, [])
    watcher.on_slot("GPU 1")
    for _ in range(2):
        watcher.entered(ROW.case_id, "samples")
        watcher.recorded(ROW)
    watcher.lost("GPU 1", "it burned down")
    assert text(shown) == [""]
    watcher.draw()
    rows = [line for line in text(shown) if line.startswith("GPU 1")]
    assert [line[:16] for line in rows] == ["GPU 1: ok       ", "GPU 1: ok       ", "GPU 1 is lost: i"]


def test_a_terminal_that_goes_ends_the_sweep() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

    watcher = LiveWatcher(Console(file=Gone(), force_terminal=True, width=100, height=30), "paper speed")
    watcher.started(2, [])
    watcher._thread.start()
    watcher._thread.join()
    with pytest.raises(OSError, match="Input/output"):
        watcher.recorded(ROW)
