"""What `lbench report` shows first: the run of this machine that ended last, and which others there are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lightning_bench.record import Row
from lightning_bench.report.tables.origin import distinct
from lightning_bench.words import counted

_RUN = ("source", "suite", "metric", "protocol")
_NAMED = 6  # other runs that are named; there are hundreds in a year


@dataclass(frozen=True)
class Newest:
    """The rows of one run and sentences about it: whose it is, and what else there is."""

    rows: list[Row]
    messages: list[str]


def newest(rows: Iterable[Row], host: str) -> Newest:
    """Return the run that ended last on this host, or on any if none is of it.

    A run is what one file has of a suite, a metric and a protocol. `rows` are not empty.
    """
    runs: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        runs.setdefault((row.source, *(getattr(row.record, name) for name in _RUN[1:])), []).append(row)
    latest = sorted(runs.values(), key=_ended, reverse=True)
    here = [run for run in latest if any(row.record.host == host for row in run)]
    shown = (here or latest)[0]
    messages = [f"Newest run: {_described(shown)}."]
    if not here:
        device = distinct(row.record.device_name for row in shown) or "another machine"
        messages = [
            f"No results of this machine yet: `lbench speed` measures some. {messages[0]} ({device}.)"
        ]
    others = [run for run in latest if run is not shown]
    if others:
        named = [_described(run) for run in others[:_NAMED]]
        more = [f"and {len(others) - _NAMED} more"] if len(others) > _NAMED else []
        messages.append(f"Not shown: {'; '.join([*named, *more])}.")
        messages.append("`lbench report --all` shows everything, `lbench report FILE.csv` one file.")
    return Newest(shown, messages)


def _described(run: Sequence[Row]) -> str:
    first = run[0].record
    what = ", ".join(filter(None, [first.suite, first.metric, f"protocol {first.protocol}"]))
    day = f", {_ended(run)[:10]}" if _ended(run) else ""
    return f"{run[0].source} ({what}, {counted(len(run), 'row')}{day})"


def _ended(run: Sequence[Row]) -> str:
    return max(row.record.time_utc for row in run)
