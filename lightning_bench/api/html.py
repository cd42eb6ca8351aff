"""Tables for notebooks: grids and comparisons as HTML, in which every text of a row is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from markupsafe import Markup, escape

from lightning_bench.report.formats.plain_text import grid_title
from lightning_bench.report.tables.grid import Grid


def html_of_grid(grid: Grid) -> str:
    """Return a table with a row per line and a column per provider; the best of a row is bold."""
    head = [*grid.heads, *(f"{column.provider} ({column.over or column.family})" for column in grid.columns)]
    lines = [
        [*texts, *(Markup("<b>{}</b>").format(c.text) if c.best else c.text for c in cells)]
        for texts, cells in zip(grid.texts, grid.cells, strict=True)
    ]
    return html_table(grid_title(grid), head, lines, (*grid.notes, *grid.origin))


def html_table(
    title: str, head: Sequence[str], lines: Iterable[Sequence[str]], notes: Iterable[str] = ()
) -> str:
    """Return a table with its title above and its notes below; only `Markup` is not escaped."""

    def row(tag: str, cells: Sequence[str]) -> Markup:
        inner = Markup("").join(Markup("<{0}>{1}</{0}>").format(Markup(tag), cell) for cell in cells)
        return Markup("<tr>{}</tr>").format(inner)

    body = Markup("").join(row("td", line) for line in lines)
    below = Markup("<br>").join(escape(note) for note in notes)
    return str(
        Markup("<table><caption>{}</caption><thead>{}</thead><tbody>{}</tbody></table><p>{}</p>").format(
            title, row("th", head), body, below
        )
    )
