"""What a sweep shows while it runs: a live display on a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import time
from textwrap import wrap
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table as RichTable
from rich.text import Text

from lightning_bench.record import Record
from lightning_bench.report.tables.figures import figure_with_unit
from lightning_bench.words import brief, counted, duration

STATUS_STYLES = {
    "ok": "green",
    "unstable": "yellow",
    "unavailable": "dim",
    "unsupported": "dim",
    "oom": "magenta",
    "timeout": "red",
    "crashed": "red",
    "wrong": "red",
}


_STATUS_WIDTH = 12
# Phases of no case that do not concern all cases of a shape.
_SHARED = {"start": "starting a worker", "idle": "nothing left to do"}


def record_line(record: Record) -> Text:
    """Return one row as a line: status, case, figure, reason."""
    line = _without_reason(record)
    if record.reason:
        line.append(f"  {record.reason}", style="dim")
    return line


def _without_reason(record: Record) -> Text:
    line = Text()
    line.append(f"{record.status:<{_STATUS_WIDTH}}", style=STATUS_STYLES[record.status])
    line.append(record.case_id)
    if figure := figure_with_unit(record):
        line.append(f"  {figure}", style="bold")
    return line


def record_lines(record: Record, width: int) -> list[Text]:
    """Return one row as lines for a terminal: what does not fit continues below, in whole words.

    Only a case that is longer than a line is broken, at a hyphen, and only a reason that `brief` shortens is
    cut.
    """
    line = record_line(record)
    if line.cell_len <= width:
        return [line]
    room, indent = max(width, 2 * _STATUS_WIDTH) - _STATUS_WIDTH, " " * _STATUS_WIDTH
    line = _without_reason(record)
    lines = [line]
    if line.cell_len > width:
        first, *more = wrap(line.plain[_STATUS_WIDTH:], room)
        status = Text(f"{record.status:<{_STATUS_WIDTH}}", style=STATUS_STYLES[record.status])
        lines = [status.append(first, style="none"), *(Text(indent + text) for text in more)]
    reason = wrap(brief(record.reason), room)
    return [*lines, *(Text(indent + text, style="dim") for text in reason)]


class QuietWatcher:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def started(self, total: int, standing: list[Record]) -> None:
        """Ignore the number of cases."""

    def entered(self, case_id: str, phase: str) -> None:
        """Ignore the current case."""

    def recorded(self, record: Record) -> None:
        """Ignore the row."""

    def measuring(self, side: str) -> None:
        """Ignore which tree is measured."""

    def on_slot(self, name: str) -> None:
        """Ignore where it happens."""

    def lost(self, name: str, reason: str) -> None:
        """Ignore that a slot is lost."""


class PlainWatcher(QuietWatcher):
    """Prints one line per row, for logs and pipes."""

    def __init__(self, console: Console, name: str) -> None:
        self._console, self._name, self._side, self._slot = console, name, "", ""
        self._total = self._done = 0

    def measuring(self, side: str) -> None:
        """Begin the next lines with the name of the tree."""
        self._side = f"{side}: "

    def on_slot(self, name: str) -> None:
        """Begin the next lines with the name of the slot."""
        self._slot = f"{name}: "

    def lost(self, name: str, reason: str) -> None:
        """Print that a slot is lost."""
        self._console.print(Text(_loss(name, reason)), soft_wrap=True)

    def started(self, total: int, standing: list[Record]) -> None:
        """Print how many cases the sweep has, and how many of them have a row already."""
        self._total, self._done = total, len(standing)
        self._console.print(Text(_opening(self._name, total, len(standing))), soft_wrap=True)

    def recorded(self, record: Record) -> None:
        """Print the row with its place in the sweep."""
        self._done += 1
        line = Text(f"[{self._done}/{self._total}] {self._slot}{self._side}")
        line.append_text(record_line(record))
        self._console.print(line, soft_wrap=True)


class LiveWatcher(QuietWatcher):
    """Lets rows scroll by; below them it shows the sweep, the time left and each slot's current case."""

    def __init__(self, console: Console, name: str) -> None:
        self._console, self._name, self._side, self._slot = console, name, "", ""
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
        )
        self._task = self._progress.add_task(name, total=None, left="")
        self._current: dict[str, str] = {"": ""}  # by slot
        self._begin = time.monotonic()
        self._done = self._here = self._total = 0
        self._measured = False
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=8)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._current.clear()
        self._live.stop()

    def started(self, total: int, standing: list[Record]) -> None:
        """Set the scale of the bar; rows of earlier runs count as done."""
        self._total, self._done = total, len(standing)
        self._progress.update(self._task, total=total, completed=self._done)
        if standing:
            self._console.print(Text(_opening(self._name, total, len(standing))), soft_wrap=True)

    def measuring(self, side: str) -> None:
        """Begin the next lines with the name of the tree."""
        self._side = f"{side}: "

    def entered(self, case_id: str, phase: str) -> None:
        """Show the current case and its phase."""
        shared = _SHARED.get(phase, f"{phase} for all cases of the shape")
        self._current[self._slot] = self._side + (f"{phase}: {case_id}" if case_id else shared)

    def on_slot(self, name: str) -> None:
        """Show what follows on the line of this slot, and begin the lines of rows with its name."""
        self._current.pop("", None)
        self._slot = f"{name}: "

    def lost(self, name: str, reason: str) -> None:
        """Print that a slot is lost, and show no line for it."""
        self._current.pop(f"{name}: ", None)
        self._console.print(Text(_loss(name, reason)), soft_wrap=True)

    def recorded(self, record: Record) -> None:
        """Print the row and estimate the time left anew from the rows of this run."""
        self._done += 1
        self._here += 1
        self._measured |= record.status != "unavailable"  # these take no time
        left = ""
        if self._measured and self._done < self._total:
            seconds = (time.monotonic() - self._begin) / self._here * (self._total - self._done)
            left = f"about {duration(seconds)} left"
        self._progress.update(self._task, completed=self._done, left=left)
        before = self._slot + self._side
        first, *more = record_lines(record, self._console.width - len(before))
        for line in (Text(before).append_text(first), *more):
            self._console.print(line, soft_wrap=True)

    def _render(self) -> RichTable:
        grid = RichTable.grid()
        grid.add_row(self._progress)
        for slot, current in sorted(self._current.items()) or [("", "")]:
            grid.add_row(Text(f"  {slot}{current}", style="dim", no_wrap=True, overflow="ellipsis"))
        return grid


def _loss(name: str, reason: str) -> str:
    return f"{name} is lost: {reason}"


def _opening(name: str, total: int, standing: int) -> str:
    cases = f"{name}: {counted(total, 'case')}"
    return f"{cases}, {standing} of them recorded already" if standing else cases


def make_watcher(console: Console, name: str, *, quiet: bool) -> QuietWatcher:
    """Return the watcher for a console: quiet, live on a terminal, else plain."""
    if quiet:
        return QuietWatcher()
    return LiveWatcher(console, name) if console.is_terminal else PlainWatcher(console, name)
