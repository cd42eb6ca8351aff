"""The result of a comparison: one verdict per cell, ratios over all, and whether that passes."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

from lightning_bench.errors import ExitCode, UsageError
from lightning_bench.words import counted

Verdict = Literal[
    "SLOWER",
    "GREW",
    "BROKEN",
    "MISSING",
    "INCOMPARABLE",
    "AMBIGUOUS",
    "FASTER",
    "SHRANK",
    "FIXED",
    "NEW",
    "SAME",
]
"""In the order in which they are shown: what is worse first."""

VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
WORSE: frozenset[Verdict] = frozenset({"SLOWER", "GREW", "BROKEN", "MISSING"})
UNSURE: frozenset[Verdict] = frozenset({"AMBIGUOUS", "INCOMPARABLE"})
UNCHANGED: frozenset[Verdict] = frozenset({"SAME", "AMBIGUOUS"})
_COMPARED: frozenset[Verdict] = frozenset(VERDICTS) - {"MISSING", "NEW", "INCOMPARABLE"}

MEANINGS: dict[Verdict, str] = {
    "SLOWER": "takes clearly longer, by as much as the threshold as far as can be told",
    "GREW": "takes over 0.5 % more memory",
    "BROKEN": "worked before and does not now",
    "MISSING": "measured before, and has no row now",
    "INCOMPARABLE": "measured on another machine, with other versions or by another protocol",
    "AMBIGUOUS": "neither clearly changed nor clearly within the threshold",
    "FASTER": "takes clearly less time",
    "SHRANK": "takes over 0.5 % less memory",
    "FIXED": "did not work before and does now",
    "NEW": "not measured before",
    "SAME": "within the threshold, with 99 % confidence",
}


@dataclass(frozen=True)
class ComparedCell:
    """One case on both sides. Ratios are head / base: above 1 is slower or larger.

    `low` and `high` bound the ratio with 99 % confidence; `p` is adjusted for the number of cells;
    `resolution` is the smallest ratio, less one, that this comparison finds in 95 % of runs; `noise` is the
    source of the noise between processes: measured, calibrated or assumed.
    """

    verdict: Verdict
    metric: str
    protocol: str
    case_id: str
    provider: str
    family: str
    direction: str
    base: float | None = None
    head: float | None = None
    unit: str = ""
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    resolution: float | None = None
    base_blocks: int = 0
    head_blocks: int = 0
    paired: bool = False
    noise: str = ""
    detail: str = ""
    accepted: str = ""


@dataclass(frozen=True)
class Overall:
    """Geometric mean of the ratios of one family and direction, with its 99 % confidence interval."""

    family: str
    direction: str
    cells: int
    ratio: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Everything that the outputs show: names of both sides, cells, ratios over all and remarks."""

    base: str
    head: str
    threshold: float
    cells: list[ComparedCell]
    overall: list[Overall]
    remarks: list[str] = field(default_factory=list)
    fail_on: frozenset[Verdict] = WORSE

    @property
    def counts(self) -> Counter[Verdict]:
        """The number of cells with each verdict."""
        return Counter(cell.verdict for cell in self.cells)

    @property
    def failing(self) -> list[ComparedCell]:
        """The cells whose verdict is in `fail_on` and that no `--allow` accepts."""
        return [cell for cell in self.cells if cell.verdict in self.fail_on and not cell.accepted]

    @property
    def compared(self) -> int:
        """The number of cells that both sides have, on one machine and by one protocol."""
        return sum(cell.verdict in _COMPARED for cell in self.cells)

    @property
    def exit_code(self) -> ExitCode:
        """The exit code: OK if nothing is worse, FOUND if something is, NOTHING if nothing was compared."""
        if not self.compared:
            return ExitCode.NOTHING
        return ExitCode.FOUND if self.failing else ExitCode.OK

    @property
    def headline(self) -> str:
        """The verdict over all cells in one sentence."""
        if not self.compared:
            return "Nothing was compared"
        counts = Counter(cell.verdict for cell in self.failing)
        if not counts:
            accepted = sum(bool(cell.accepted) for cell in self.cells)
            more = f" but {accepted} that {'is' if accepted == 1 else 'are'} accepted" if accepted else ""
            return f"Nothing is worse in {counted(self.compared, 'cell')}{more}"
        words = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])
        return f"Worse: {words} of {counted(len(self.cells), 'cell')}"


def sort_cells(cells: Iterable[ComparedCell]) -> list[ComparedCell]:
    """Sort cells by verdict, the worst first, then by size of the change, then as they came."""
    rank = {verdict: index for index, verdict in enumerate(VERDICTS)}

    def size(cell: ComparedCell) -> float:
        ratio = cell.ratio or 1.0
        return -max(ratio, 1 / ratio) if ratio > 0 else 0.0

    return sorted(cells, key=lambda cell: (rank[cell.verdict], size(cell)))


def parse_fail_on(text: str | None) -> frozenset[Verdict]:
    """Parse `--fail-on`, such as `SLOWER,AMBIGUOUS`. Raises UsageError for a word that is no verdict."""
    if text is None:
        return WORSE
    names = {part.strip().upper() for part in text.split(",") if part.strip()}
    if wrong := sorted(names - set(VERDICTS)):
        raise UsageError(f"--fail-on {', '.join(wrong)} is not known; allowed: {', '.join(VERDICTS)}")
    if not names:
        raise UsageError(f"--fail-on is empty; allowed: {', '.join(VERDICTS)}, with commas between them")
    return frozenset(verdict for verdict in VERDICTS if verdict in names)


def parse_allow(texts: Sequence[str]) -> dict[str, str]:
    """Parse `--allow`, `PATTERN=REASON`, to reasons by pattern. Raises UsageError if there is no reason."""
    allowed = {}
    for text in texts:
        pattern, _, reason = text.partition("=")
        if not pattern.strip() or not reason.strip():
            raise UsageError(
                f"--allow {text!r} gives no reason; allowed: 'PATTERN=REASON', "
                "such as 'lightning2/bwd/*=slower until the new launch is in'"
            )
        allowed[pattern.strip()] = reason.strip()
    return allowed


def accept(comparison: Comparison, allowed: dict[str, str]) -> Comparison:
    """Return the comparison with the reason of the first pattern that matches each worse cell.

    A pattern matches a case_id, and then accepts all that is worse there, or `VERDICT:case_id`. A remark
    names each pattern that matches nothing.
    """
    used: set[str] = set()

    def accepted(cell: ComparedCell) -> ComparedCell:
        if cell.verdict not in comparison.fail_on:
            return cell
        names = (cell.case_id, f"{cell.verdict}:{cell.case_id}")
        fits = [pattern for pattern in allowed if any(fnmatch.fnmatchcase(name, pattern) for name in names)]
        used.update(fits)
        return replace(cell, accepted=allowed[fits[0]]) if fits else cell

    cells = [accepted(cell) for cell in comparison.cells]
    idle = [
        f"--allow {pattern!r} matches nothing that is worse: remove it"
        for pattern in allowed
        if pattern not in used
    ]
    return replace(comparison, cells=cells, remarks=[*comparison.remarks, *idle])


def as_data(comparison: Comparison) -> dict[str, Any]:
    """Return what `--json` prints."""
    return {
        "base": comparison.base,
        "head": comparison.head,
        "threshold": comparison.threshold,
        "exit_code": comparison.exit_code,
        "headline": comparison.headline,
        "counts": dict(comparison.counts),
        "overall": [asdict(overall) for overall in comparison.overall],
        "remarks": comparison.remarks,
        "cells": [asdict(cell) for cell in comparison.cells],
    }
