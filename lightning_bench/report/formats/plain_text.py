"""Grids as plain text: columns aligned to the right, in parts that fit the width of a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from textwrap import wrap

from rich.cells import cell_len

from lightning_bench.report.tables.grid import Grid, GridCell

GAP = "  "
"""What is between two columns."""
_LEAST = 20  # columns of a note


def grid_title(grid: Grid) -> str:
    """Return the line above a table: its name and its unit."""
    return f"{grid.title}  ({grid.unit})"


def title_lines(grid: Grid, width: int) -> list[str]:
    """Return the same in as many lines as it takes: no word is cut."""
    if cell_len(grid_title(grid)) <= width:
        return [grid_title(grid)]
    return [grid.title, *_wrapped(f"({grid.unit})", width)]


def note_lines(notes: Iterable[str], width: int) -> list[str]:
    """Return what is below a table in lines of `width` terminal cells, no word cut."""
    return [line for note in notes for line in _wrapped(note, width)]


def grid_parts(grid: Grid, width: int) -> Iterator[list[list[GridCell]]]:
    """Yield the parts of a table that fit `width` terminal cells, as lines: two of heads and one per line.

    Each part has the columns that tell lines apart and at least one provider, though it be wider. The texts
    of a line are padded, with `GAP` between them to come.
    """
    fixed = len(grid.heads)
    columns = [
        [GridCell(text) for text in (head, "", *texts)]
        for head, *texts in zip(grid.heads, *grid.texts, strict=True)
    ]
    columns += (
        [
            GridCell(column.provider),
            GridCell(column.over or column.family),
            *(line[at] for line in grid.cells),
        ]
        for at, column in enumerate(grid.columns)
    )
    widths = [max(cell_len(cell.text) for cell in column) for column in columns]
    start, before = fixed, sum(widths[:fixed]) + len(GAP) * fixed
    while start < len(columns):
        end, used = start + 1, before + widths[start]
        while end < len(columns) and used + len(GAP) + widths[end] <= width:
            used += len(GAP) + widths[end]
            end += 1
        shown = [*range(fixed), *range(start, end)]
        yield _aligned([columns[index] for index in shown], [widths[index] for index in shown])
        start = end


def grid_text(grid: Grid, width: int) -> str:
    """Return a table with its title and its notes."""
    lines = title_lines(grid, width)
    for part in grid_parts(grid, width):
        lines += (GAP.join(cell.text for cell in line) for line in part)
    lines += note_lines((*grid.notes, *grid.origin), width)
    return "\n".join(lines) + "\n"


def _wrapped(text: str, width: int) -> list[str]:
    return wrap(
        text,
        max(width, _LEAST),
        initial_indent="  ",
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _aligned(columns: Sequence[Sequence[GridCell]], widths: Sequence[int]) -> list[list[GridCell]]:
    """Return the lines of columns that are aligned to the right."""
    return [
        [
            replace(cell, text=" " * (width - cell_len(cell.text)) + cell.text)
            for cell, width in zip(line, widths, strict=True)
        ]
        for line in zip(*columns, strict=True)
    ]
