"""How `lbench compare` shows a comparison: on the terminal, in files, and to GitHub."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lightning_bench.cli.shared.common_options import OUTPUT_PANEL
from lightning_bench.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from lightning_bench.cli.shared.sink import Sink
    from lightning_bench.comparison.result import Comparison

_STYLES = {
    "SLOWER": "bold red",
    "GREW": "bold red",
    "BROKEN": "bold red",
    "MISSING": "bold red",
    "INCOMPARABLE": "magenta",
    "AMBIGUOUS": "yellow",
    "FASTER": "green",
    "SHRANK": "green",
    "FIXED": "green",
    "NEW": "cyan",
    "SAME": "dim",
}


_WIDE = 110  # columns from which both figures have one of their own


@dataclass(frozen=True)
class Shown:
    """Which cells are shown, and in which formats besides the terminal's table."""

    everything: Annotated[
        bool,
        typer.Option("--all", help="Show all SAME and AMBIGUOUS cells too.", rich_help_panel=OUTPUT_PANEL),
    ] = False
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Markdown for a pull request.", rich_help_panel=OUTPUT_PANEL)
    ] = False
    junit: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write JUnit XML.", rich_help_panel=OUTPUT_PANEL)
    ] = None


def show(sink: Sink, comparison: Comparison, shown: Shown) -> None:
    """Print and write what was asked for; when GitHub runs this, also its annotations and step summary."""
    from lightning_bench.comparison.formats import ci
    from lightning_bench.comparison.formats.verdict_markdown import comparison_markdown
    from lightning_bench.comparison.result import as_data

    if sink.as_json:
        sink.data(as_data(comparison))
    elif shown.as_markdown:
        sink.raw(comparison_markdown(comparison))
    else:
        _table(sink, comparison, everything=shown.everything)
    if shown.junit is not None:
        _write(shown.junit, ci.junit(comparison), "w")
        sink.say(f"wrote {shown.junit}")
    if os.environ.get("GITHUB_ACTIONS") == "true":
        for line in ci.workflow_commands(comparison):
            sink.command(line)
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        _write(Path(summary), comparison_markdown(comparison) + "\n", "a")


def _table(sink: Sink, comparison: Comparison, *, everything: bool) -> None:
    from lightning_bench.comparison.formats import verdict_text as text

    out = sink.out
    sink.prose((text.name_of_sides(comparison), "bold"))
    cells = text.shown(comparison, everything=everything)
    if cells:
        narrow = out.width < _WIDE
        rows = []
        for cell in cells:
            verdict, change, interval, base, head, _ = text.row(cell)
            both = [f"{base.rpartition(' ')[0]} → {head}" if head else base] if narrow else [base, head]
            rows.append([verdict, change, interval, *both, text.case_name(cell)])
        both = ["base → head"] if narrow else ["base", "head"]
        headers = [*text.HEADERS[:3], *both, text.HEADERS[-1]]
        styles = ["dim" if cell.accepted else _STYLES[cell.verdict] for cell in cells]
        below = [text.details(cell) for cell in cells]
        sink.grid(headers, rows, right=range(1, len(headers) - 1), styles=styles, below=below)
    for one, line in zip(comparison.overall, text.overall_lines(comparison.overall), strict=True):
        verdict, rest = line.split(" ", 1)
        sink.prose((verdict, "dim" if one.accepted else _STYLES[verdict]), (f" {rest}", ""))
    for remark in comparison.remarks:
        sink.say(f"note: {remark}")
    worse = comparison.exit_code == ExitCode.FOUND
    style = "bold green" if comparison.clean else "bold red" if worse else "bold yellow"
    others = text.others_text(comparison)
    hidden = len(comparison.cells) - len(cells)
    chosen = ""
    if "AMBIGUOUS" not in comparison.fail_on and any(cell.verdict == "AMBIGUOUS" for cell in cells):
        chosen = "; shown are those that may have changed most"
    more = f" ({hidden} not shown: --all{chosen})" if hidden else ""
    sink.prose((f"{comparison.headline}.", style), (f" Also {others}." if others else "", ""), (more, ""))


def _write(path: Path, text: str, mode: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open(mode, encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
