"""The result of a comparison: one verdict per cell, one over all of a provider's, and whether that passes."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

from lightning_bench.case import TIMED
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
_DECIDED: frozenset[Verdict] = _COMPARED - {"AMBIGUOUS"}
SAME_ROW = "one row on both sides"
"""The detail of a cell whose two sides are one measurement."""
ENERGY = "energy is not compared: read both tables"
NEW_FAULT = "new, and "

MEANINGS: dict[Verdict, str] = {
    "SLOWER": "takes clearly longer, by as much as the threshold as far as can be told",
    "GREW": "takes over 0.5 % more memory",
    "BROKEN": "worked before and does not now",
    "MISSING": "measured before, and has no row now",
    "INCOMPARABLE": "measured on another machine, with other versions or by another protocol, or only once",
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
    """Geometric mean of the ratios of one provider and direction, its verdict and 99 % confidence interval.

    `p` is adjusted for the number of overall verdicts, whose error budget is their own.
    """

    provider: str
    family: str
    direction: str
    protocol: str
    verdict: Verdict
    cells: int
    case_ids: tuple[str, ...]
    ratio: float
    low: float | None
    high: float | None
    p: float
    accepted: str = ""

    @property
    def name(self) -> str:
        """What it is over: `lightning2 fwd`."""
        return f"{self.provider} {self.direction}{'' if self.protocol == 'lbench' else f' ({self.protocol})'}"

    @property
    def id(self) -> str:
        """What a pattern of `--allow` matches, beside those of its cells."""
        return f"{self.provider}/{self.direction}/overall"


@dataclass(frozen=True)
class Comparison:
    """Everything that the outputs show: names of both sides, cells, overall verdicts and remarks."""

    base: str
    head: str
    threshold: float
    cells: list[ComparedCell]
    overall: list[Overall]
    remarks: list[str] = field(default_factory=list)
    fail_on: frozenset[Verdict] = WORSE
    untouched: str = ""
    """Why nothing had to be measured, which passes: no change between the sides reaches a provider."""

    @property
    def counts(self) -> Counter[Verdict]:
        """The number of cells with each verdict."""
        return Counter(cell.verdict for cell in self.cells)

    @property
    def failing(self) -> list[ComparedCell]:
        """The cells whose verdict is in `fail_on` and that no `--allow` accepts."""
        return [cell for cell in self.cells if cell.verdict in self.fail_on and not cell.accepted]

    @property
    def failing_overall(self) -> list[Overall]:
        """The overall verdicts that are in `fail_on` and that no `--allow` accepts."""
        return [one for one in self.overall if one.verdict in self.fail_on - UNSURE and not one.accepted]

    @property
    def compared(self) -> int:
        """The number of cells that both sides have, on one machine and by one protocol."""
        return sum(cell.verdict in _COMPARED for cell in self.cells)

    @property
    def decided(self) -> int:
        """The number of cells that were compared, and are not AMBIGUOUS."""
        return sum(cell.verdict in _DECIDED for cell in self.cells)

    @property
    def undecided(self) -> Counter[Verdict]:
        """The cells that are AMBIGUOUS or INCOMPARABLE and that no `--allow` accepts, by verdict."""
        return Counter(cell.verdict for cell in self.cells if cell.verdict in UNSURE and not cell.accepted)

    @property
    def clean(self) -> bool:
        """Whether everything is decided and nothing is worse: what a green mark stands for."""
        return self.exit_code == ExitCode.OK and not self.undecided and not self._failed_new

    @property
    def _failed_new(self) -> int:
        return sum(cell.verdict == "NEW" and cell.detail.startswith(NEW_FAULT) for cell in self.cells)

    @property
    def exit_code(self) -> ExitCode:
        """FOUND if something is worse, UNDECIDED if nothing is known or a cell cannot be compared."""
        if not self.compared:
            return ExitCode.OK if self.untouched and not self.cells else ExitCode.UNDECIDED
        if self.failing or self.failing_overall:
            return ExitCode.FOUND
        known = self.decided or any(one.verdict in _DECIDED for one in self.overall)
        return ExitCode.OK if known and not self.undecided["INCOMPARABLE"] else ExitCode.UNDECIDED

    @property
    def headline(self) -> str:
        """The verdict in one sentence, which says what is not decided."""
        if self.untouched and not self.cells:
            return self.untouched
        if not self.compared:
            same = self.cells and all(cell.detail == SAME_ROW for cell in self.cells)
            return "Nothing was compared" + (": both sides are the same rows" if same else "")
        counts = Counter(cell.verdict for cell in self.failing)
        parts = []
        if counts:
            parts.append(f"Worse: {_counts_text(counts)} of {counted(len(self.cells), 'cell')}")
        if self.failing_overall:
            parts.append(("over all: " if counts else "Worse over all: ") + _listed(self.failing_overall))
        if not parts:
            parts.append(self._not_worse())
        if self.undecided and (self.decided or self.failing_overall):
            parts.append(f"not decided: {_counts_text(self.undecided)}")
        if new := self.counts["NEW"] - counts["NEW"]:
            failed = f", of which {self._failed_new} failed" if self._failed_new else ""
            parts.append(f"only in head: {new}{failed}")
        return "; ".join(parts)

    def _not_worse(self) -> str:
        known = [one for one in self.overall if one.verdict in _DECIDED]
        if not self.decided:
            words = _counts_text(self.undecided) or "none has a verdict"
            if not known:
                return f"Nothing is decided in {counted(len(self.cells), 'cell')}: {words}"
            left = len(self.overall) - len(known)
            of = f"; not decided over all: {left}" if left else ""
            said = "decided" if any(one.verdict == "SLOWER" for one in known) else "not worse"
            return f"No cell is decided: {words}; {said} over all: {_listed(known)}{of}"
        accepted = sum(bool(cell.accepted) for cell in self.cells)
        more = f" but {accepted} that {'is' if accepted == 1 else 'are'} accepted" if accepted else ""
        return f"Nothing is worse in {counted(self.decided, 'cell')}{more}"


def _counts_text(counts: Counter[Verdict]) -> str:
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])


def percent(ratio: float) -> str:
    """Return the change that a ratio means, signed, in per cent; as a factor from ten on."""
    return f"×{ratio:.3g}" if ratio >= 10 else f"{100 * (ratio - 1):+.1f} %"


def _listed(overall: Sequence[Overall]) -> str:
    """Name the first three, the largest change first."""
    first = sorted(overall, key=lambda one: -one.ratio)
    words = [f"{one.name} {percent(one.ratio)} in {counted(one.cells, 'cell')}" for one in first[:3]]
    return ", ".join(words) + (f" and {len(first) - 3} more" if len(first) > 3 else "")


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

    A pattern matches a case_id, and then accepts all that is worse there, or `VERDICT:case_id`; so it does a
    cell that is INCOMPARABLE. An overall verdict is accepted by its own id, as `lightning2/fwd/overall`, or
    if all cells of it that are worse are. A remark names each pattern that matches nothing.
    """
    used: set[str] = set()

    def reason(name: str, verdict: Verdict) -> str:
        if verdict not in comparison.fail_on | {"INCOMPARABLE"}:
            return ""
        names = (name, f"{verdict}:{name}")
        fits = [pattern for pattern in allowed if any(fnmatch.fnmatchcase(one, pattern) for one in names)]
        used.update(fits)
        return allowed[fits[0]] if fits else ""

    cells = [replace(cell, accepted=reason(cell.case_id, cell.verdict)) for cell in comparison.cells]
    worse = {
        (cell.protocol, cell.case_id): cell.accepted
        for cell in cells
        if cell.metric in TIMED and cell.verdict in comparison.fail_on
    }

    def of_cells(one: Overall) -> str:
        reasons = [worse[one.protocol, name] for name in one.case_ids if (one.protocol, name) in worse]
        return reasons[0] if reasons and all(reasons) and one.verdict in comparison.fail_on else ""

    overall = [
        replace(one, accepted=reason(one.id, one.verdict) or of_cells(one)) for one in comparison.overall
    ]
    idle = [
        f"--allow {pattern!r} matches nothing that is worse: remove it"
        for pattern in allowed
        if pattern not in used
    ]
    return replace(comparison, cells=cells, overall=overall, remarks=[*comparison.remarks, *idle])


def _overall_data(one: Overall) -> dict[str, Any]:
    data = asdict(one)
    del data["case_ids"]  # the cells say whose they are
    return data


def as_data(comparison: Comparison) -> dict[str, Any]:
    """Return what `--json` prints."""
    return {
        "base": comparison.base,
        "head": comparison.head,
        "threshold": comparison.threshold,
        "exit_code": comparison.exit_code,
        "headline": comparison.headline,
        "counts": dict(comparison.counts),
        "decided": comparison.decided,
        "overall": [_overall_data(one) for one in comparison.overall],
        "remarks": comparison.remarks,
        "cells": [asdict(cell) for cell in comparison.cells],
    }
