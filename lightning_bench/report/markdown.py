"""Grids as Markdown, for pull requests and pages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from lightning_bench.report.grid import Column, Grid


def markdown(grids: Iterable[Grid], *, heading: str, remarks: Sequence[str] = ()) -> str:
    """A document: ``heading``, ``remarks``, then a section a table. Text of a CSV is escaped."""
    parts = [f"# {escape(heading)}", *(escape(remark) for remark in remarks)]
    for grid in grids:
        parts += _section(grid)
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """Text that Markdown prints as it is, in a table too."""
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", text).replace("&", "&amp;")


def code(text: str) -> str:
    """A name in code type; in a table a bar would end the cell even there."""
    return "`" + text.replace("`", "'").replace("|", "\\|") + "`"


def _section(grid: Grid) -> list[str]:
    parts = [f"## {code(grid.title)}: {grid.kind}", f"{escape(_capital(grid.unit))}."]
    if grid.columns:
        parts.append(_table(grid))
    lines = [f"- {escape(line)}" for line in (*grid.notes, *grid.origin)]
    return [*parts, "\n".join(lines)]


def _table(grid: Grid) -> str:
    lines = [["n", *map(_head, grid.columns)], ["---:"] * (1 + len(grid.columns))]
    for n, cells in zip(grid.lengths, grid.cells, strict=True):
        texts = (escape(cell.text) for cell in cells)
        lines.append(
            [str(n), *(f"**{text}**" if c.best else text for c, text in zip(cells, texts, strict=True))]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _head(column: Column) -> str:
    return f"{code(column.provider)} {escape(column.over)}".strip()


def _capital(text: str) -> str:
    """Sentence case, but for units: ms and tokens/s stay as they are."""
    return text[:1].upper() + text[1:] if text.startswith(("speedup", "worst")) else text
