"""The one place that prints: data to stdout, narration to stderr."""

from __future__ import annotations

import json
from collections.abc import Sequence
from textwrap import TextWrapper
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable
from rich.text import Text

if TYPE_CHECKING:
    from lightning_bench.report.tables.grid import Grid

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
_HEAD_STYLES = {0: "bold", 1: "dim"}  # of a table's first lines


class Sink:
    """Prints for people or, with `as_json`, for programs; with `quiet` it narrates nothing but errors."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json, self.quiet = as_json, quiet
        self.out = Console(highlight=False, soft_wrap=False)
        self.err = Console(stderr=True, highlight=False)

    def error(self, message: str) -> None:
        """Print an error on stderr, uncut."""
        text = self._wrapped(f"lbench: {message}").removeprefix("lbench:")
        self.err.print(f"[bold red]lbench:[/]{escape(text)}", soft_wrap=True)

    def say(self, message: str) -> None:
        """Narrate on stderr."""
        if not self.quiet:
            self.err.print(escape(self._wrapped(message)), soft_wrap=True)

    def _wrapped(self, message: str) -> str:
        """Cut lines for a terminal between words, never within a path; elsewhere leave the message."""
        if not self.err.is_terminal:
            return message
        wrapper = TextWrapper(self.err.width, break_long_words=False, break_on_hyphens=False)
        return "\n".join(wrapper.fill(line) for line in message.split("\n"))

    def data(self, value: Any) -> None:
        """Print JSON on stdout."""
        print(json.dumps(value, indent=2, ensure_ascii=False))

    def grid(
        self, headers: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "", wrapped: int = 1
    ) -> None:
        """Print a listing on stdout; the last `wrapped` columns wrap, the others do not."""
        table = RichTable(title=title or None, box=None, title_justify="left", pad_edge=False)
        for index, header in enumerate(headers):
            table.add_column(header, no_wrap=index < len(headers) - wrapped, overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        self.out.print(table)

    def paper_table(self, grid: Grid) -> None:
        """Print a table in the published shape, cut into as many parts as the width needs."""
        columns = [["n", "", *map(str, grid.lengths)]]
        columns += (
            [column.provider, column.over or column.family, *(cells[index].text for cells in grid.cells)]
            for index, column in enumerate(grid.columns)
        )
        widths = [max(map(cell_len, column)) for column in columns]
        self.out.print(Text(f"{grid.title}  ({grid.unit})", style="bold"))
        start = 1
        while start < len(columns):
            end, used = start + 1, widths[0] + 2 + widths[start]
            while end < len(columns) and used + 2 + widths[end] <= self.out.width:
                used += 2 + widths[end]
                end += 1
            shown = [0, *range(start, end)]
            self._part([columns[index] for index in shown], [widths[index] for index in shown])
            start = end
        for note in (*grid.notes, *grid.origin):
            self.out.print(Text(f"  {note}", style="dim"))
        self.out.print()

    def _part(self, columns: Sequence[Sequence[str]], widths: Sequence[int]) -> None:
        """Print columns to the right of their widths: as a table of rich, in a fifth of its time."""
        text = Text()
        for number, line in enumerate(zip(*columns, strict=True)):
            cells = (" " * (width - cell_len(cell)) + cell for cell, width in zip(line, widths, strict=True))
            text.append("  ".join(cells) + "\n", style=_HEAD_STYLES.get(number))
        self.out.print(text, end="", soft_wrap=True)  # uncut where a single column is too wide
