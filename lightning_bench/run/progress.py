"""What a sweep shows while it runs: a live display on a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import threading
import time
from collections import deque
from textwrap import wrap
from types import TracebackType
from typing import Self

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.segment import Segment, Segments
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
DRAWN_PER_S = 4
"""How often a terminal is drawn, whatever happens."""
# So many of its lines show rows, however many slots there are.
_ROOM_FOR_ROWS = 8
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
    """Lets rows scroll by; below them it shows the sweep, the time left and each slot's current case.

    A thread draws it, so many times a second whatever happens: an event only notes what will be drawn.
    """

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
        self._news: deque[tuple[str, Record | str]] = deque()  # what is not printed yet, and how lines begin
        self._begin = time.monotonic()
        self._done = self._here = self._total = 0
        self._measured = False
        self._failure: OSError | None = None
        self._live = Live(console=console, get_renderable=self._render, auto_refresh=False)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._draw_on, daemon=True)

    def __enter__(self) -> Self:
        self._live.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._current.clear()
        self.draw()
        self._live.stop()

    def started(self, total: int, standing: list[Record]) -> None:
        """Set the scale of the bar; rows of earlier runs count as done."""
        self._total, self._done = total, len(standing)
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
        """Have it printed that a slot is lost, and show no line for it."""
        self._current.pop(f"{name}: ", None)
        self._news.append(("", _loss(name, reason)))

    def recorded(self, record: Record) -> None:
        """Have the row printed, and estimate the time left from the rows of this run."""
        if self._failure:
            raise self._failure
        self._news.append((self._slot + self._side, record))
        self._done += 1
        self._here += 1
        self._measured |= record.status != "unavailable"  # these take no time

    def draw(self) -> None:
        """Print what is new, and draw what is below it."""
        left = ""
        if self._measured and self._done < self._total:
            seconds = (time.monotonic() - self._begin) / self._here * (self._total - self._done)
            left = f"about {duration(seconds)} left"
        total = self._total or None
        self._progress.update(self._task, total=total, completed=self._done, left=left)
        lines = []
        while self._news:
            before, what = self._news.popleft()
            found = [Text(what)] if isinstance(what, str) else self._fitting(what, len(before))
            lines += [Text(before).append_text(found[0]), *found[1:]]
        if lines:  # as segments: laying out texts again takes several times as long
            parts = (part for line in lines for part in (*line.render(self._console), Segment.line()))
            self._console.print(Segments(parts), soft_wrap=True, end="")
        self._live.refresh()

    def _fitting(self, record: Record, indent: int) -> list[Text]:
        return record_lines(record, self._console.width - indent)

    def _draw_on(self) -> None:
        try:
            while not self._ended.wait(1.0 / DRAWN_PER_S):
                self.draw()
        except OSError as error:
            self._failure = error

    def _render(self) -> Group:
        current = sorted(self._current.copy().items()) or [("", "")]
        room = max(1, self._console.height - _ROOM_FOR_ROWS)
        lines = [f"  {slot}{text}" for slot, text in current[:room]]
        if more := len(current) - room:
            lines[-1:] = [f"  and {more + 1} more slots"] if more > 0 else lines[-1:]
        return Group(self._progress, _Dim(lines))


class _Dim:
    """Lines for a terminal; what does not fit is cut."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        style = console.get_style("dim")
        for line in self._lines:
            text = Text(line)
            text.truncate(options.max_width, overflow="ellipsis")
            yield Segment(text.plain, style)
            yield Segment.line()


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
