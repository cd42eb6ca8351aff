"""Findings as text: a template of this folder holds the sentences, and their figures come from rows.

A template is Markdown of blocks with blank lines between them: the title after `# `, paragraphs, and tables,
each after its caption, which ends with a colon. Lines within a block are joined.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lightning_bench.report.published.evidence import FAULTS_COMMAND


@dataclass(frozen=True)
class Listing:
    """A table of evidence, as text."""

    caption: str
    head: list[str]
    lines: list[list[str]]


@dataclass(frozen=True)
class Finding:
    """One thing that the published tables measured other than they say, and the files that show it.

    Text between backticks in a paragraph is code.
    """

    title: str
    paragraphs: list[str]
    listings: list[Listing]
    sources: list[str] = field(default_factory=list)


def write_finding(template: str, figures: object, sources: Sequence[str]) -> Finding:
    """Return the finding that the template of this name makes of its `figures`."""
    text = _environment().get_template(f"{template}.md.j2").render(figures=figures)
    title, *blocks = re.split(r"\n\s*\n", text.strip())
    paragraphs: list[str] = []
    listings: list[Listing] = []
    for block in blocks:
        if block.startswith("|"):
            head, *lines = map(_cells, block.split("\n"))
            listings.append(Listing(paragraphs.pop().removesuffix(":"), head, lines))
        else:
            paragraphs.append(" ".join(block.split()))
    return Finding(title.removeprefix("# "), paragraphs, listings, list(sources))


def measured_text(value: float | None, decimals: int) -> str:
    """Return a figure with so many decimals, or that it was not measured."""
    return "not measured" if value is None else f"{value:.{decimals}f}"


@cache
def _environment() -> Environment:
    # Not escaped: the text is no markup, and each format of a report escapes it in its own way.
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["faults_command"] = FAULTS_COMMAND
    environment.filters["figure"] = measured_text
    environment.filters["short"] = lambda value: f"{value:g}"
    environment.filters["sentence"] = lambda text: text[:1].upper() + text[1:]
    # A bar or a line break in a cell would end it: they travel as `_cells` undoes them.
    environment.filters["cell"] = lambda text: " ".join(html.escape(text).replace("|", "&#124;").split())
    return environment


def _cells(line: str) -> list[str]:
    return [html.unescape(cell.strip()) for cell in line.strip("|").split("|")]
