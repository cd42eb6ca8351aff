"""Grids as plain text: columns aligned to the right, in parts that fit the width of a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.cells import cell_len

from lightning_bench.report.tables.grid import Grid


def grid_title(grid: Grid) -> str:
    """Return the line above a table: its name and its unit."""
    return f"{grid.title}  ({grid.unit})"


def grid_parts(grid: Grid, width: int) -> Iterator[list[str]]:
    """Yield the parts of a table that fit `width` terminal cells, as lines: two of heads and one per line.

    Each part has the columns that tell lines apart and at least one provider, though it be wider.
    """
    fixed = len(grid.heads)
    columns = [[head, "", *texts] for head, *texts in zip(grid.heads, *grid.texts, strict=True)]
    columns += (
        [column.provider, column.over or column.family, *(cells[index].text for cells in grid.cells)]
        for index, column in enumerate(grid.columns)
    )
    widths = [max(map(cell_len, column)) for column in columns]
    start, before = fixed, sum(widths[:fixed]) + 2 * fixed
    while start < len(columns):
        end, used = start + 1, before + widths[start]
        while end < len(columns) and used + 2 + widths[end] <= width:
            used += 2 + widths[end]
            end += 1
        shown = [*range(fixed), *range(start, end)]
        yield _aligned([columns[index] for index in shown], [widths[index] for index in shown])
        start = end


def grid_text(grid: Grid, width: int) -> str:
    """Return a table with its title and its notes."""
    lines = [grid_title(grid)]
    for part in grid_parts(grid, width):
        lines += part
    lines += [f"  {note}" for note in (*grid.notes, *grid.origin)]
    return "\n".join(lines) + "\n"


def _aligned(columns: Sequence[Sequence[str]], widths: Sequence[int]) -> list[str]:
    """Return the lines of columns that are aligned to the right."""
    return [
        "  ".join(" " * (width - cell_len(cell)) + cell for cell, width in zip(line, widths, strict=True))
        for line in zip(*columns, strict=True)
    ]
