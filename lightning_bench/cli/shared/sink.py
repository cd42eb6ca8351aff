"""The one place that prints: data to stdout, narration to stderr.

Texts come from files and providers of other people. Here they become plain text: no markup of rich, no
terminal escapes and, where GitHub runs this, no workflow commands.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Container, Iterable, Iterator, Sequence
from textwrap import TextWrapper
from typing import IO, TYPE_CHECKING, Any, Literal, TypeVar, cast

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

if TYPE_CHECKING:
    from lightning_bench.report.tables.grid import Grid

_Item = TypeVar("_Item")

_HEAD_STYLES = {0: "bold", 1: "dim"}  # of a table's first lines


_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
# A runner takes `::name::` at the start of a line and `##[name]` anywhere.
_COMMAND = re.compile(r"^(\s*:)(?=:)|##(?=\[)", re.MULTILINE)
_UNSEEN = "\u200b"  # a space without width


def plain(text: str) -> str:
    """Return text whose control characters, but not tabs and ends of lines, are shown and not obeyed."""
    return _STEERING.sub(lambda found: ascii(found[0])[1:-1], text)


def plain_text(text: str, style: str = "") -> Text:
    """Return text of a file or a provider for rich: in this style, and never read as markup."""
    return Text(plain(text), style=style)


class _Plain:
    """Something for rich, of which only its own control codes reach the terminal."""

    def __init__(self, content: RenderableType) -> None:
        self._content = content

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for segment in console.render(self._content, options):
            yield segment if segment.control else Segment(plain(segment.text), segment.style)


class _Stream:
    """Standard output or error as it is at the time, for GitHub: workflow commands in what is written end."""

    def __init__(self, name: Literal["stdout", "stderr"]) -> None:
        self._name = name

    def write(self, text: str) -> int:
        """Write text in which no line is a workflow command."""
        return int(getattr(sys, self._name).write(_COMMAND.sub(rf"\g<0>{_UNSEEN}", text)))

    def __getattr__(self, name: str) -> Any:
        return getattr(getattr(sys, self._name), name)


def _stream(name: Literal["stdout", "stderr"]) -> IO[str] | None:
    return cast(IO[str], _Stream(name)) if os.environ.get("GITHUB_ACTIONS") == "true" else None


class Sink:
    """Prints for people or, with `as_json`, for programs; with `quiet` it narrates nothing but errors."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json, self.quiet = as_json, quiet
        self.out = Console(file=_stream("stdout"), highlight=False, markup=False, emoji=False)
        self.err = Console(file=_stream("stderr"), stderr=True, highlight=False, markup=False, emoji=False)

    def error(self, message: str) -> None:
        """Print an error on stderr, uncut."""
        text = self._wrapped(f"lbench: {message}").removeprefix("lbench:")
        self.err.print(Text.assemble(("lbench:", "bold red"), plain_text(text)), soft_wrap=True)

    def say(self, message: str) -> None:
        """Narrate on stderr."""
        if not self.quiet:
            self.err.print(plain_text(self._wrapped(message)), soft_wrap=True)

    def note(self, message: str) -> None:
        """Print on stderr, uncut, though the sink is quiet."""
        self.err.print(plain_text(message), soft_wrap=True)

    def tracked(self, items: Iterable[_Item], total: int, noun: str) -> Iterator[_Item]:
        """Yield the items; on a terminal, a bar on stderr shows how many of `total` have come."""
        if self.quiet or not self.err.is_terminal:
            yield from items
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        columns = (BarColumn(), MofNCompleteColumn(), TextColumn(noun))
        with Progress(*columns, console=self.err, transient=True) as progress:
            task = progress.add_task(noun, total=total)
            for item in items:
                yield item
                progress.advance(task)

    def _wrapped(self, message: str) -> str:
        """Cut lines for a terminal between words, never within a path; elsewhere leave the message."""
        if not self.err.is_terminal:
            return message
        wrapper = TextWrapper(self.err.width, break_long_words=False, break_on_hyphens=False)
        return "\n".join(wrapper.fill(line) for line in message.split("\n"))

    def data(self, value: Any) -> None:
        """Print JSON on stdout."""
        text = json.dumps(value, indent=2, ensure_ascii=False).replace("##[", r"##\u005b")
        self.raw(_STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n")

    def raw(self, text: str) -> None:
        """Print a document on stdout: JSON, Markdown, CSV and so on, whose makers escape its text."""
        print(plain(text), end="", file=self.out.file)

    def line(self, text: str) -> None:
        """Print one line on stdout, uncut."""
        self.raw(text.replace("\n", r"\n") + "\n")

    def screen(self, content: RenderableType) -> None:
        """Print what rich lays out on stdout; its texts are plain, whoever made them."""
        self.out.print(_Plain(content))

    def command(self, text: str) -> None:
        """Print a workflow command for GitHub."""
        print(plain(text).replace("##[", f"##{_UNSEEN}["), file=sys.stderr)

    def grid(
        self,
        headers: Sequence[str],
        rows: Sequence[Sequence[str]],
        *,
        title: str = "",
        wrapped: int = 1,
        right: Container[int] = (),
        styles: Sequence[str] = (),
        below: Sequence[str] = (),
    ) -> None:
        """Print a listing on stdout: no text of it is cut, and no word broken.

        The last `wrapped` columns wrap, those in `right` are aligned so; `styles` are of the first cells.
        The texts of `below` are below their rows.
        """
        from lightning_bench.cli.shared.listing_lines import indented_lines, listing_lines

        if title:
            self.out.print(plain_text(title, style="italic"), soft_wrap=True)
        cells = [list(headers), *([plain(cell) for cell in row] for row in rows)]
        for number, lines in enumerate(listing_lines(cells, self.out.width, wrapped, right)):
            text = Text("\n".join(lines), style="" if number else "bold")
            if number and styles:
                text.stylize(styles[number - 1], 0, len(cells[number][0]))
            self.out.print(text, soft_wrap=True)
            if number and below:
                self._lines(indented_lines(plain(below[number - 1]), self.out.width), "dim")

    def prose(self, *parts: tuple[str, str]) -> None:
        """Print texts with their styles as one paragraph on stdout; a terminal gets whole words."""
        text = Text.assemble(*((plain(text), style) for text, style in parts))
        self.out.print(text, soft_wrap=not self.out.is_terminal)

    def paper_table(self, grid: Grid, after: Grid | None = None) -> None:
        """Print a table in the published shape, cut into as many parts as the width needs.

        What is also below the table `after` it is not printed twice.
        """
        from lightning_bench.report.formats.plain_text import GAP, grid_parts, note_lines, title_lines
        from lightning_bench.report.tables.grid import lines_below

        width = self.out.width
        self._lines(title_lines(grid, width), "bold")
        for lines in grid_parts(grid, width):
            for number, line in enumerate(lines):
                style = _HEAD_STYLES.get(number, "")
                cells = [plain_text(cell.text, "bold" if cell.best else style) for cell in line]
                self.out.print(Text(GAP).join(cells), soft_wrap=True)
        self._lines(note_lines(lines_below(grid, after), width), "dim")
        self.out.print()

    def _lines(self, lines: Iterable[str], style: str) -> None:
        for line in lines:
            self.out.print(plain_text(line, style), soft_wrap=True)
