"""A comparison in words: the cells of tables, and the lines above and below them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from lightning_bench.comparison.result import (
    UNCHANGED,
    UNSURE,
    VERDICTS,
    ComparedCell,
    Comparison,
    Overall,
    percent,
)
from lightning_bench.words import counted

_MOST_AMBIGUOUS = 5
_FAR = 1000  # times: what a bound beyond it is does not matter
HEADERS = ("verdict", "change", "99 % interval", "base", "head", "case")


def change_text(cell: ComparedCell) -> str:
    """Return the change as `+3.1 %`, or "" if there is no ratio."""
    return "" if cell.ratio is None else percent(cell.ratio)


def interval_text(cell: ComparedCell | Overall) -> str:
    """Return the interval as `-0.4 … +1.2 %`, or "" if the ratio has no bounds.

    Of a change whose direction is not known, a bound beyond `_FAR` is not told in full.
    """
    if cell.low is None or cell.high is None or cell.high == float("inf"):
        return ""
    high = percent(cell.high) if cell.high <= _FAR or cell.low > 1 else f">×{_FAR}"
    low = f"{100 * (cell.low - 1):+.1f}" if high.endswith("%") else percent(cell.low)
    return f"{low} … {high}"


def figure_text(value: float | None, unit: str) -> str:
    """Return a figure with four digits and its unit, "" for None."""
    return "" if value is None else f"{value:.4g} {unit}"


def case_text(cell: ComparedCell) -> str:
    """Return the case, why it was accepted, and its details."""
    return "  ".join(filter(None, [case_name(cell), details(cell)]))


def row(cell: ComparedCell) -> tuple[str, ...]:
    """Return the cells of a table row, in the order of `HEADERS`."""
    return (
        cell.verdict,
        change_text(cell),
        interval_text(cell),
        figure_text(cell.base, cell.unit),
        figure_text(cell.head, cell.unit),
        case_text(cell),
    )


def shown(comparison: Comparison, *, everything: bool) -> list[ComparedCell]:
    """Return the cells that changed or cannot be compared, or with `everything` all of them.

    If none of them is decided, the AMBIGUOUS cells that may have changed most follow, at most five.
    """
    hidden = frozenset() if everything else UNCHANGED - comparison.fail_on
    cells = [cell for cell in comparison.cells if cell.verdict not in hidden]
    if "AMBIGUOUS" not in hidden or any(cell.verdict not in UNSURE for cell in cells):
        return cells
    ambiguous = [cell for cell in comparison.cells if cell.verdict == "AMBIGUOUS"]
    return cells + sorted(ambiguous, key=_possible_change, reverse=True)[:_MOST_AMBIGUOUS]


def _possible_change(cell: ComparedCell) -> tuple[bool, float]:
    """Return whether the interval has bounds, and the larger factor that it allows, either way."""
    if interval_text(cell) and cell.low and cell.high:
        return True, max(cell.high, 1 / cell.low)
    return False, max(cell.ratio, 1 / cell.ratio) if cell.ratio else 0.0


def details(cell: ComparedCell) -> str:
    """Return why a cell was accepted, and its details."""
    return "  ".join(filter(None, [f"accepted: {cell.accepted}" if cell.accepted else "", cell.detail]))


def case_name(cell: ComparedCell) -> str:
    """Return the case, with the metric if that is not speed."""
    return cell.case_id if cell.metric == "speed" else f"{cell.case_id} ({cell.metric})"


def counts_text(comparison: Comparison) -> str:
    """Return the number of cells of each verdict, worst first: `1 SLOWER, 23 SAME`."""
    counts = comparison.counts
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict]) or "no cells"


def others_text(comparison: Comparison) -> str:
    """Return the number of cells of each verdict that the headline does not count, "" if it counts all."""
    told = Counter(cell.verdict for cell in comparison.failing) + comparison.undecided
    left = comparison.counts - told
    left["NEW"] = 0  # only in head
    return ", ".join(f"{left[verdict]} {verdict}" for verdict in VERDICTS if left[verdict])


def overall_lines(overall: Iterable[Overall]) -> list[str]:
    """Return one line per provider and direction: verdict, mean change, its interval."""
    lines = []
    for mean in overall:
        bounds = interval_text(mean)
        interval = f", 99 % interval {bounds}" if bounds else ", no finite interval"
        accepted = f"  accepted: {mean.accepted}" if mean.accepted else ""
        cells = counted(mean.cells, "cell")
        lines.append(
            f"{mean.verdict} over all {mean.name}: {percent(mean.ratio)} in {cells}{interval}{accepted}"
        )
    return lines


def name_of_sides(comparison: Comparison) -> str:
    """Return which side is compared with which, or that both are one file."""
    if comparison.base == comparison.head:
        return f"{comparison.head} against itself: the same file"
    return f"{comparison.head} against {comparison.base}"
