"""One outcome of several: what the processes that measured a case, one after the other, agree on."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lightning_bench.measure.job import Figures, Outcome
from lightning_bench.record import AUTOTUNED
from lightning_bench.record.row import log_deviation
from lightning_bench.record.samples import sample_fields

_CONFIDENCE = 0.95
# Above this a figure is given but called unstable.
BETWEEN_LIMIT_PERCENT = 5.0


def across(outcomes: Sequence[Outcome]) -> Outcome:
    """Return the outcome of a case that each of several processes has measured.

    It is unstable if it was in any of them, and says why. Its figures are those of the process with the
    median of their medians (of an even number, the lower); of a kernel that tuned itself in one of them,
    those of the fastest. The interval is where the figure of as many other processes lies with 95 %
    confidence. The errors are the largest. The last of its lines of samples is that of the process whose
    figures it has.
    """
    if len(outcomes) == 1:
        return outcomes[0]
    tuned = sum(AUTOTUNED in outcome.figures.provider_config for outcome in outcomes)
    ordered = sorted(outcomes, key=_median)
    chosen = ordered[0 if tuned else (len(ordered) - 1) // 2]
    logs = [math.log(_median(outcome)) for outcome in outcomes]
    between = statistics.stdev(logs)
    half = half_width(between, [_within(outcome.figures) for outcome in outcomes])
    median = _median(chosen)
    figures = replace(
        chosen.figures,
        **_largest_errors(outcomes),
        ci_low_ms=median * math.exp(-half),
        ci_high_ms=median * math.exp(half),
        samples=sum(outcome.figures.samples or 0 for outcome in outcomes),
        throttled_samples=_sum([outcome.figures.throttled_samples for outcome in outcomes]),
        processes=len(outcomes),
        between_percent=100.0 * between,
    )
    disturbed = chosen if chosen.status == "unstable" else _first_unstable(outcomes)
    notes = [reason] if (reason := (disturbed or chosen).reason) else []
    if 100.0 * between > BETWEEN_LIMIT_PERCENT and not tuned:
        medians = ", ".join(f"{_median(outcome):.4g}" for outcome in outcomes)
        notes.insert(0, f"its processes differ: medians of {medians} ms")
    elif tuned:
        count = len(outcomes)
        who = "each of which tuned anew" if tuned == count else f"{tuned} of which tuned anew"
        notes.append(f"the fastest of {count} processes, {who}")
    unstable = disturbed is not None or (100.0 * between > BETWEEN_LIMIT_PERCENT and not tuned)
    return replace(
        chosen,
        status="unstable" if unstable else "ok",
        reason="; ".join(notes),
        figures=figures,
        sample_lines=_sample_lines(outcomes, chosen),
    )


def half_width(between: float, within: Sequence[float]) -> float:
    """Return half the width, as a log ratio, of the interval in which the figure of other processes lies.

    `between` is the standard deviation of the log medians of the processes, and `within` is how far each of
    them is known. Few processes that happen to agree are not taken to vary less than each is known.
    """
    # A fifth of a second, for nothing where one process measures each case; scipy.stats takes longer.
    from scipy.special import stdtrit

    count = len(within)
    least = math.sqrt(math.fsum(w * w for w in within) / count)
    quantile = float(stdtrit(count - 1, 0.5 + _CONFIDENCE / 2))
    return quantile * max(between, least) * math.sqrt(2.0 / count)


def _sample_lines(outcomes: Sequence[Outcome], chosen: Outcome) -> tuple[str, ...]:
    """Return the lines of all processes with their numbers, those of the chosen one last."""
    numbered = sorted(enumerate(outcomes), key=lambda pair: pair[1] is chosen)
    return tuple(
        f"{line}, {sample_fields({'process': number})}"
        for number, outcome in numbered
        for line in outcome.sample_lines
    )


def _first_unstable(outcomes: Sequence[Outcome]) -> Outcome | None:
    return next((outcome for outcome in outcomes if outcome.status == "unstable"), None)


def _sum(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _median(outcome: Outcome) -> float:
    assert outcome.figures.median_ms is not None
    return outcome.figures.median_ms


def _within(figures: Figures) -> float:
    """Return the standard deviation of the log of a process's median that its interval means."""
    assert figures.ci_low_ms is not None
    assert figures.ci_high_ms is not None
    return log_deviation(figures.ci_low_ms, figures.ci_high_ms)


def _largest_errors(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    names = ("error_o", "error_dq", "error_dk", "error_dv", "error_dgate", "error_state")
    found: dict[str, float] = {}
    for name in names:
        errors = [error for outcome in outcomes if (error := getattr(outcome.figures, name)) is not None]
        if errors:
            found[name] = max(errors)
    return found
