"""Notes under tables: why cells have no figure, and what a reader must know of those that have one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from lightning_bench.record import Record
from lightning_bench.record.identities import unlike

_REASON_WIDTH = 100  # a longer reason is cut under a table; the CSV has the whole of it

MIXED = (
    "Columns of different suites, machines or protocols stand side by side, as --mix asked: "
    "their figures were not taken alike."
)


def device_notes(records: Iterable[Record]) -> list[str]:
    """Return what the devices of a table's rows differ in, one line for each."""
    by_provider: dict[str, list[Record]] = {}
    for record in records:
        by_provider.setdefault(record.provider, []).append(record)
    return [f"Not all times are of one device: {sentence}" for sentence in unlike(by_provider)]


def named(provider: str, over: str) -> str:
    """Return a column's name for a line of text."""
    return f"{provider} ({over})" if over else provider


def absent_note(name: str, first: Record) -> str:
    """Return the note on a provider that took part nowhere; `first` is its first row."""
    return f"{name}: {first.status}: {_short(first.reason)}"


def status_notes(name: str, records: Mapping[int, Record]) -> list[str]:
    """Return one line per status that is not ok: at which lengths, and the reason at the shortest."""
    lengths: dict[str, list[int]] = {}
    for n, record in sorted(records.items()):
        if record.status != "ok":
            lengths.setdefault(record.status, []).append(n)
    return [
        f"{name}: {'* ' if status == 'unstable' else ''}{status} at n = {', '.join(map(str, where))}: "
        f"{_short(records[where[0]].reason)}"
        for status, where in lengths.items()
    ]


def lacking_note(name: str, lengths: Sequence[int]) -> str:
    """Return the note on rows that are ok but lack the table's figure, as rows of an older version do."""
    return f"{name}: ok at n = {', '.join(map(str, lengths))}, but its row lacks this figure"


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


def _short(reason: str) -> str:
    return reason if len(reason) <= _REASON_WIDTH else reason[: _REASON_WIDTH - 1].rstrip() + "…"
