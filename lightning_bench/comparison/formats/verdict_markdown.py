"""A comparison as Markdown for a pull request: the headline first, the details folded."""

from __future__ import annotations

from collections.abc import Iterable

from lightning_bench.comparison.formats.verdict_text import HEADERS, counts_text, overall_lines, row
from lightning_bench.comparison.result import UNCHANGED, ComparedCell, Comparison
from lightning_bench.errors import ExitCode

_ESCAPES = {ord(sign): f"&#{ord(sign)};" for sign in "&<>\\`*_[]|~#@"}

MOST_ROWS = 500
"""GitHub takes comments of 65,536 characters and step summaries of 1 MiB."""


def comparison_markdown(comparison: Comparison) -> str:
    """Return the headline and the cells that are worse, then folded: other changes, all cells, remarks."""
    failing = comparison.failing
    mark = "✅" if comparison.clean else "❌" if comparison.exit_code == ExitCode.FOUND else "⚠️"
    same = " (the same file)" if comparison.head == comparison.base else ""
    parts = [
        f"### {mark} lbench: {comparison.headline}",
        f"`{_plain(comparison.head)}` against `{_plain(comparison.base)}`{same}, "
        f"threshold {100 * comparison.threshold:g} %: {counts_text(comparison)}.",
    ]
    if failing:
        parts.append(_table(failing[:20]))
        if len(failing) > 20:
            parts.append(f"… and {len(failing) - 20} more below.")
    if comparison.overall:
        parts.append("\n".join(f"- {_text(line)}" for line in overall_lines(comparison.overall)))
    worse = {id(cell) for cell in failing}
    changed = [c for c in comparison.cells if id(c) not in worse and c.verdict not in UNCHANGED]
    parts += _folded("Other changes", changed)
    parts += _folded("All cells", comparison.cells)
    if comparison.remarks:
        body = "\n".join(f"- {_text(remark)}" for remark in comparison.remarks)
        parts.append(_details(f"Remarks ({len(comparison.remarks)})", body))
    return "\n\n".join(parts) + "\n"


def _folded(title: str, cells: list[ComparedCell]) -> list[str]:
    if not cells:
        return []
    body = _table(cells[:MOST_ROWS])
    if len(cells) > MOST_ROWS:
        body += f"\n\n… and {len(cells) - MOST_ROWS} more: `--json` has them all."
    return [_details(f"{title} ({len(cells)})", body)]


def _details(summary: str, body: str) -> str:
    return f"<details><summary>{summary}</summary>\n\n{body}\n\n</details>"


def _table(cells: Iterable[ComparedCell]) -> str:
    lines = ["| " + " | ".join(HEADERS) + " |", "|---|---:|---:|---:|---:|---|"]
    lines += ["| " + " | ".join(_text(text) for text in row(cell)) + " |" for cell in cells]
    return "\n".join(lines)


def _text(text: str) -> str:
    """Escape text of a CSV or a user, so that it stays in its table cell and makes no markup."""
    return " ".join(text.split()).translate(_ESCAPES)


def _plain(text: str) -> str:
    return text.replace("`", "'")
