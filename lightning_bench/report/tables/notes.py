"""Notes under tables: why cells have no figure, and what a reader must know of those that have one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from lightning_bench.record import Record
from lightning_bench.record.identities import unlike
from lightning_bench.report.tables.figures import model_of, worst_error
from lightning_bench.report.tables.grid_lines import GridLine
from lightning_bench.words import brief

MIXED = (
    "Columns of different suites, machines or protocols stand side by side, as --mix asked: "
    "their figures were not taken alike."
)


def device_notes(records: Iterable[Record]) -> list[str]:
    """Return what the devices of a table's rows differ in, one line for each.

    It says so if each line is of one device: ratios within it are of one.
    """
    by_provider: dict[str, list[Record]] = {}
    by_line: dict[tuple[str, GridLine], list[Record]] = {}
    for record in records:
        by_provider.setdefault(record.provider, []).append(record)
        by_line.setdefault((model_of(record), GridLine.of(record)), []).append(record)
    split = any(unlike({"": members}) for members in by_line.values())
    what = (
        "Not all times are of one device"
        if split
        else "Each shape was measured on one device, not all shapes on the same"
    )
    return [f"{what}: {sentence}" for sentence in unlike(by_provider)]


def named(provider: str, over: str) -> str:
    """Return a column's name for a line of text."""
    return f"{provider} ({over})" if over else provider


def absent_note(name: str, first: Record) -> str:
    """Return the note on a provider that took part nowhere; `first` is its first row."""
    return f"{name}: {first.status}: {brief(first.reason)}"


def status_notes(name: str, records: Mapping[GridLine, Record]) -> list[str]:
    """Return one note per status that is not ok: at which lines, and the reason of the worst row."""
    places: dict[str, list[GridLine]] = {}
    for line, record in sorted(records.items()):
        if record.status != "ok":
            places.setdefault(record.status, []).append(line)
    lines = []
    for status, where in places.items():
        worst = max(where, key=lambda line: _severity(records[line]))
        star = "* " if status == "unstable" else ""
        of = f"worst at {worst}: " if len(where) > 1 and _severity(records[worst]) else ""
        reason = brief(records[worst].reason)
        lines.append(f"{name}: {star}{status} at n = {', '.join(map(str, where))}: {of}{reason}")
    return lines


def lacking_note(name: str, lines: Sequence[GridLine]) -> str:
    """Return the note on rows that are ok but lack the table's figure, as rows of an older version do."""
    return f"{name}: ok at n = {', '.join(map(str, lines))}, but its row lacks this figure"


def mechanism_notes(columns: Sequence[tuple[str, str]], baseline: str) -> list[str]:
    """Return the note on columns (provider, family) whose speedup over the baseline compares mechanisms."""
    family = next(of for provider, of in columns if provider == baseline)
    others = dict.fromkeys(provider for provider, of in columns if of != family)
    if not others:
        return []
    return [
        f"{', '.join(others)}: of another family than {baseline} ({family}); "
        "such a speedup compares mechanisms, not implementations."
    ]


def _severity(record: Record) -> float:
    """Return how far a row is from ok: its error over the budget, or the width of its interval.

    0 for other statuses: of them the shortest length says most.
    """
    if record.status == "wrong":
        return (worst_error(record) or 0.0) / (record.error_budget or 1.0)
    if record.status == "unstable" and record.median_ms and record.ci_low_ms and record.ci_high_ms:
        return (record.ci_high_ms - record.ci_low_ms) / record.median_ms
    return 0.0
