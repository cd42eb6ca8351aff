"""A comparison as words: the cells of tables, and the lines above and below them."""

from __future__ import annotations

from collections.abc import Iterable

from lightning_bench.compare.result import (
    UNCHANGED,
    VERDICTS,
    Cell,
    Comparison,
    Overall,
)
from lightning_bench.words import counted

HEADERS = ("verdict", "change", "99 % interval", "base", "head", "case")


def change_text(cell: Cell) -> str:
    """``+3.1 %``, or "" where there is no ratio."""
    return "" if cell.ratio is None else percent(cell.ratio)


def percent(ratio: float) -> str:
    """The change that a ratio is, signed; as a factor where it is beyond ten."""
    return f"×{ratio:.3g}" if ratio >= 10 else f"{100 * (ratio - 1):+.1f} %"


def interval_text(cell: Cell | Overall) -> str:
    """``−0.4 … +1.2 %``, or "" where nothing bounds the ratio."""
    if cell.low is None or cell.high is None or cell.high == float("inf"):
        return ""
    high = percent(cell.high)
    low = f"{100 * (cell.low - 1):+.1f}" if high.endswith("%") else percent(cell.low)
    return f"{low} … {high}"


def figure_text(value: float | None, unit: str) -> str:
    """Four digits and the unit."""
    return "" if value is None else f"{value:.4g} {unit}"


def case_text(cell: Cell) -> str:
    """The case, what there is to say of it, and why it was accepted."""
    words = [cell.case_id if cell.metric == "speed" else f"{cell.case_id} ({cell.metric})"]
    if cell.accepted:
        words.append(f"accepted: {cell.accepted}")
    if cell.detail:
        words.append(cell.detail)
    return "  ".join(words)


def row(cell: Cell) -> tuple[str, ...]:
    """A line of a table, in the order of HEADERS."""
    return (
        cell.verdict,
        change_text(cell),
        interval_text(cell),
        figure_text(cell.base, cell.unit),
        figure_text(cell.head, cell.unit),
        case_text(cell),
    )


def shown(comparison: Comparison, *, everything: bool) -> list[Cell]:
    """The cells that changed or cannot be compared, or all of them."""
    hidden = frozenset() if everything else UNCHANGED - comparison.fail_on
    return [cell for cell in comparison.cells if cell.verdict not in hidden]


def counts_text(comparison: Comparison) -> str:
    """``1 SLOWER, 23 SAME``, worst first."""
    counts = comparison.counts
    return ", ".join(f"{counts[one]} {one}" for one in VERDICTS if counts[one]) or "no cells"


def overall_lines(overall: Iterable[Overall]) -> list[str]:
    """One line a family and direction."""
    lines = []
    for one in overall:
        bounds = interval_text(one)
        said = f", 99 % interval {bounds}" if bounds else ", known to no bound"
        lines.append(
            f"{one.family} {one.direction}: {percent(one.ratio)} over {counted(one.cells, 'cell')}{said}"
        )
    return lines
