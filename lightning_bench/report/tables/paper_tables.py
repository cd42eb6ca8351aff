"""Tables in the shape of the published ones: a row per sequence length, a column per provider."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lightning_bench.case import Metric, ProtocolName
from lightning_bench.record import Record


@dataclass(frozen=True)
class Table:
    """One plot of the papers as text. ``cells[row][column]``; ``notes`` say why cells have no figure."""

    title: str
    unit: str
    columns: list[str]
    families: list[str]
    rows: list[int]
    cells: list[list[str]]
    notes: list[str]


# Notes under a table are cut to this; the CSV has the whole reason.
_REASON_WIDTH = 100

FIGURES: dict[tuple[Metric, ProtocolName], tuple[str, str, int]] = {
    ("speed", "lbench"): ("median_ms", "ms, median of cold samples", 4),
    ("speed", "paper"): ("mean_ms", "ms, mean as the papers took it", 6),
    ("memory", "lbench"): ("extra_mib", "MiB that the call adds", 2),
    ("memory", "paper"): ("peak_mib", "MiB, mean peak, inputs included", 6),
}
"""The figure that stands for a metric under a protocol, what it is, and its decimals."""


def paper_tables(records: Iterable[Record]) -> list[Table]:
    """One table for each combination of everything but seq_len and provider, in order of appearance.

    Rows of different machines, protocols or metrics never share a table.
    """
    groups: dict[tuple[object, ...], list[Record]] = {}
    for r in records:
        key = (
            r.suite,
            r.metric,
            r.protocol,
            r.machine_id,
            r.device,
            r.direction,
            r.dtype,
            r.batch,
            r.heads,
            r.head_dim,
            r.value_dim,
        )
        groups.setdefault(key, []).append(r)
    return [_table(group) for group in groups.values()]


def title(record: Record) -> str:
    """As the published tables are titled, with our suite's name in front."""
    name = f"{record.suite}-{record.metric}_{record.direction}-batch{record.batch}"
    if not record.heads:  # a published figure of a whole model, whose shape was not stated
        return name
    return f"{name}-head{record.heads}-qk_dim{record.head_dim}-v_dim{record.value_dim}-dtype_{record.dtype}"


def _table(records: list[Record]) -> Table:
    first = records[0]
    by_provider: dict[str, dict[int, Record]] = {}
    for record in records:
        by_provider.setdefault(record.provider, {})[record.seq_len] = record
    lengths = sorted({record.seq_len for record in records})
    absent = {
        name: next(iter(rows.values()))
        for name, rows in by_provider.items()
        if all(row.status in ("unavailable", "unsupported") for row in rows.values())
    }
    columns = [name for name in by_provider if name not in absent]
    notes = [f"{name}: {row.status}: {short(row.reason)}" for name, row in absent.items()]
    for name in columns:
        notes += status_notes(name, by_provider[name])
    return Table(
        title=title(first),
        unit=_unit(first),
        columns=columns,
        families=[next(iter(by_provider[name].values())).family for name in columns],
        rows=lengths,
        cells=[[_cell(by_provider[name].get(length)) for name in columns] for length in lengths],
        notes=notes,
    )


def status_notes(name: str, rows: Mapping[int, Record]) -> list[str]:
    """One line a provider and status: at which lengths, and the first reason."""
    lengths: dict[str, list[int]] = {}
    for length, row in sorted(rows.items()):
        if row.status != "ok":
            lengths.setdefault(row.status, []).append(length)
    return [
        f"{name}: {'* ' if status == 'unstable' else ''}{status} at n = {', '.join(map(str, where))}: "
        f"{short(rows[where[0]].reason)}"
        for status, where in lengths.items()
    ]


def short(reason: str) -> str:
    """The reason at a length that fits under a table; the CSV has the whole of it."""
    return reason if len(reason) <= _REASON_WIDTH else reason[: _REASON_WIDTH - 1].rstrip() + "…"


def _unit(record: Record) -> str:
    if record.metric == "check":
        return "worst relative L2 error against fp64"
    return FIGURES[record.metric, record.protocol][1]


def figure_text(record: Record) -> str:
    """The row's figure with its unit, for a line of its own; "" where it has none."""
    if record.metric == "check":
        error = worst_error(record)
        return "" if error is None else f"error {error:.1e}"
    name, _, decimals = FIGURES[record.metric, record.protocol]
    value = getattr(record, name)
    return "" if value is None else f"{value:.{decimals}f} {name.rsplit('_', 1)[1].replace('mib', 'MiB')}"


def worst_error(record: Record) -> float | None:
    """The largest error of the output and the gradients; None where none was taken."""
    errors = (record.error_o, record.error_dq, record.error_dk, record.error_dv, record.error_dgate)
    return max((error for error in errors if error is not None), default=None)


def _cell(record: Record | None) -> str:
    """The figure, with ``*`` where it is unstable, or the status that says why there is none."""
    if record is None:
        return ""
    if record.status not in ("ok", "unstable"):
        return record.status
    if record.metric == "check":
        error = worst_error(record)
        return record.status if error is None else f"{error:.1e}"
    name, _, decimals = FIGURES[record.metric, record.protocol]
    value = getattr(record, name)
    if value is None:
        return record.status
    return f"{value:.{decimals}f}" + ("*" if record.status == "unstable" else "")
