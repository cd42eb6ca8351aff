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
        watcher._live.refresh()
        lines = [line.strip() for line in text(shown) if line.startswith("  GPU ")]
        assert [line[:5] for line in lines[-4:]] == ["GPU 0", "GPU 1", "GPU 2", "GPU 3"]
        assert lines[-4].startswith("GPU 0: warm-up: lightning2/fwd"[: width - 4])
        assert lines[-3] == "GPU 1: starting a worker"
        assert lines[-1] == "GPU 3: nothing left to do"
        watcher.lost("GPU 1", "it burned down")
        watcher._live.refresh()
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
