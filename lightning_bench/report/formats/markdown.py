"""Grids as Markdown, for pull requests and pages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from lightning_bench.report.tables.grid import Grid, GridColumn

if TYPE_CHECKING:
    from lightning_bench.report.published.prose import Finding


def markdown(grids: Iterable[Grid], *, heading: str, remarks: Sequence[str] = ()) -> str:
    """Return a document: `heading`, `remarks`, then one section per table. Text of a CSV is escaped."""
    parts = [f"# {escape(heading)}", *(escape(remark) for remark in remarks)]
    for grid in grids:
        parts += _section(grid)
    return "\n\n".join(parts) + "\n"


def findings_markdown(findings: Iterable[Finding]) -> str:
    """Return the document on what the published tables measured: one section per finding."""
    parts = ["# What the published tables measured"]
    for finding in findings:
        parts += [f"## {escape(finding.title)}", *map(_with_code, finding.paragraphs)]
        for listing in finding.listings:
            lines = [listing.head, ["---:"] * len(listing.head), *listing.lines]
            parts.append(f"{escape(listing.caption)}:")
            parts.append(
                "\n".join(
                    f"| {' | '.join(line if at == 1 else map(escape, line))} |"
                    for at, line in enumerate(lines)
                )
            )
        if finding.sources:
            parts.append(f"Source: {escape(', '.join(finding.sources))}")
    return "\n\n".join(parts) + "\n"


def _with_code(paragraph: str) -> str:
    """Return text in which names between backticks are code."""
    pieces = paragraph.split("`")
    return "".join(code(piece) if at % 2 else escape(piece) for at, piece in enumerate(pieces))


def escape(text: str) -> str:
    """Return text that Markdown prints as it is, in a table too."""
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", text).replace("&", "&amp;")


def code(text: str) -> str:
    """Return a name in code type; in a table a bar would end the cell even there."""
    return "`" + text.replace("`", "'").replace("|", "\\|") + "`"


def _section(grid: Grid) -> list[str]:
    parts = [f"## {code(grid.title)}: {grid.kind}", f"{escape(_capital(grid.unit))}."]
    if grid.columns:
        parts.append(_table(grid))
    lines = [f"- {escape(line)}" for line in (*grid.notes, *grid.origin)]
    return [*parts, "\n".join(lines)]


def _table(grid: Grid) -> str:
    lines = [[*grid.heads, *map(_head, grid.columns)], ["---:"] * (len(grid.heads) + len(grid.columns))]
    for line, cells in zip(grid.texts, grid.cells, strict=True):
        texts = (escape(cell.text) for cell in cells)
        lines.append(
            [
                *map(escape, line),
                *(f"**{text}**" if c.best else text for c, text in zip(cells, texts, strict=True)),
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _head(column: GridColumn) -> str:
    return f"{code(column.provider)} {escape(column.over)}".strip()


def _capital(text: str) -> str:
    """Return text in sentence case, except units: ms and tokens/s stay as they are."""
    return text[:1].upper() + text[1:] if text.startswith(("speedup", "worst")) else text
