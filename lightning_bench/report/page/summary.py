"""Who is fastest where, by how much, and how sure: the rows' own intervals, family by family."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lightning_bench.record import Record, Row
from lightning_bench.report.tables.kinds import figure
from lightning_bench.report.tables.paper_tables import FIGURES

DIRECTIONS = {"fwd": "forward", "bwd": "backward", "fwd_bwd": "forward and backward"}


@dataclass(frozen=True)
class Standing:
    """One line of the summary: of the cells of a sweep and family, those that ``winner`` leads."""

    sweep: str
    what: str
    family: str
    winner: str
    won: int
    cells: int
    by: str
    sure: str


@dataclass(frozen=True)
class Crossing:
    """The fastest of two families at the shortest and the longest sequence of one shape."""

    sweep: str
    what: str
    names: str
    shortest: str
    longest: str


@dataclass(frozen=True)
class _Lead:
    """One cell: who leads it, before whom and by which factor; ``sure`` None where nothing says so."""

    names: tuple[str, ...]
    second: str
    ratio: float | None
    sure: bool | None


def standings(rows: Iterable[Row]) -> list[Standing]:
    """The leaders of each suite, protocol, machine, metric, direction and family.

    A sweep's lines follow each other, times before memory; protocol lbench comes before paper, and of
    several leaders the one with most cells.

    A cell is a shape with its length. Providers whose figures print alike lead it together. A lead in time
    is sure where the 95 % intervals of the two medians have nothing in common, or the ranges from the 20th
    to the 80th percentile where a row has no interval; never where one of the two is unstable.
    """
    made = []
    sweeps = _sweeps(rows)
    places = {name: place for place, name in enumerate(dict.fromkeys(name for name, _, _ in sweeps))}

    def order(item: tuple[tuple[str, str, str], list[Record]]) -> tuple[bool, int, bool]:
        (name, _, _), records = item
        return records[0].protocol != "lbench", places[name], records[0].metric != "speed"

    for (sweep, what, family), records in sorted(sweeps.items(), key=order):
        cells: dict[tuple[object, ...], list[Record]] = {}
        for r in records:
            shape = (r.device, r.dtype, r.batch, r.heads, r.seq_len, r.head_dim, r.value_dim)
            cells.setdefault(shape, []).append(r)
        leads = [lead for each in cells.values() if (lead := _lead(each))]
        by_names: dict[tuple[str, ...], list[_Lead]] = {}
        for lead in leads:
            by_names.setdefault(lead.names, []).append(lead)
        for names, won in sorted(by_names.items(), key=lambda item: -len(item[1])):
            together = len(names) > 1
            made.append(
                Standing(
                    sweep=sweep,
                    what=what,
                    family=family,
                    winner=" and ".join(names) + (", alike" if together else ""),
                    won=len(won),
                    cells=len(leads),
                    by=_by(won),
                    sure=_sure(won, records[0]),
                )
            )
    return made


def crossings(rows: Iterable[Row]) -> list[Crossing]:
    """The fastest linear attention against the fastest softmax, of each shape with both at two lengths."""
    made = []
    shapes: dict[tuple[object, ...], list[Record]] = {}
    for row in rows:
        r = row.record
        if r.metric == "speed" and r.heads and _value(r):
            key = (_sweep(r), r.machine_id, r.device, r.direction, r.dtype, r.batch, r.heads)
            shapes.setdefault((*key, r.head_dim, r.value_dim), []).append(r)
    for records in shapes.values():
        softmax = _fastest(r for r in records if r.family == "softmax")
        linear = _fastest(r for r in records if r.family in ("linear_decay", "linear"))
        shared = sorted(softmax.keys() & linear.keys())
        if len(shared) > 1:
            first = records[0]
            made.append(
                Crossing(
                    sweep=_sweep(first),
                    what=f"{DIRECTIONS[first.direction]}, {_shape(first)}",
                    names=" and ".join(
                        dict.fromkeys(
                            f"{linear[n].provider} against {softmax[n].provider}"
                            for n in (shared[0], shared[-1])
                        )
                    ),
                    shortest=_at(shared[0], linear, softmax),
                    longest=_at(shared[-1], linear, softmax),
                )
            )
    return made


def _sweeps(rows: Iterable[Row]) -> dict[tuple[str, str, str], list[Record]]:
    machines = {row.record.machine_id for row in rows}
    sweeps: dict[tuple[str, str, str], list[Record]] = {}
    for row in rows:
        r = row.record
        if r.metric in ("speed", "memory") and r.heads:
            machine = f", {r.device_name} {r.machine_id}" if len(machines) > 1 else ""
            what = f"{'time' if r.metric == 'speed' else 'memory'}, {DIRECTIONS[r.direction]}"
            sweeps.setdefault((f"{_sweep(r)}{machine}", what, r.family), []).append(r)
    return sweeps


def _sweep(r: Record) -> str:
    return f"{r.suite or 'no suite'}, protocol {r.protocol}"


def _shape(r: Record) -> str:
    dims = str(r.head_dim) if r.head_dim == r.value_dim else f"{r.head_dim}/{r.value_dim}"
    return f"batch {r.batch}, {r.heads} heads, head_dim {dims}, {r.dtype}"


def _value(r: Record) -> float | None:
    return figure(r) if r.status in ("ok", "unstable") else None


def _text(r: Record) -> str:
    return f"{_value(r) or 0.0:.{FIGURES[r.metric, r.protocol][2]}f}"


def _lead(records: Sequence[Record]) -> _Lead | None:
    """Who leads one cell; None where fewer than two providers have a figure."""
    have = sorted((r for r in records if _value(r) is not None), key=lambda r: _value(r) or 0.0)
    if len({r.provider for r in have}) < 2:
        return None
    first = have[0]
    alike = [r for r in have if _text(r) == _text(first)]
    names = tuple(dict.fromkeys(r.provider for r in alike))
    behind = have[len(alike) :]
    if not behind:
        return _Lead(names, "", None, None)
    second = behind[0]
    value = _value(first)
    return _Lead(
        names, second.provider, (_value(second) or 0.0) / value if value else None, _apart(first, second)
    )


def _apart(first: Record, second: Record) -> bool | None:
    if first.metric != "speed":
        return None
    one, other = _interval(first), _interval(second)
    if one is None or other is None or one[2] != other[2]:
        return None
    return one[1] < other[0] and "unstable" not in (first.status, second.status)


def _interval(r: Record) -> tuple[float, float, str] | None:
    if r.ci_low_ms is not None and r.ci_high_ms is not None:
        return r.ci_low_ms, r.ci_high_ms, "95 % intervals"
    if r.p20_ms is not None and r.p80_ms is not None:
        return r.p20_ms, r.p80_ms, "20th to 80th percentiles"
    return None


def _by(leads: Sequence[_Lead]) -> str:
    ratios = [lead.ratio for lead in leads if lead.ratio is not None]
    if not ratios:
        return "nobody behind"
    low, high = f"{min(ratios):.2f}×", f"{max(ratios):.2f}×"
    span = low if low == high else f"{low} to {high}"
    if high == "1.00×":
        span = "less than 0.5 %"
    seconds = Counter(lead.second for lead in leads if lead.second)
    return f"{span} before {', '.join(seconds)}"


def _sure(leads: Sequence[_Lead], first: Record) -> str:
    if first.metric != "speed":
        return "counted by the allocator: no spread"
    told = [lead.sure for lead in leads if lead.sure is not None]
    if not told:
        return "not known: these rows keep no interval"
    kind = _interval(first)
    return f"{kind[2] if kind else 'intervals'} apart in {sum(told)} of {len(leads)}"


def _fastest(records: Iterable[Record]) -> dict[int, Record]:
    fastest: dict[int, Record] = {}
    for r in records:
        best = fastest.get(r.seq_len)
        if best is None or (_value(r) or 0.0) < (_value(best) or 0.0):
            fastest[r.seq_len] = r
    return fastest


def _at(n: int, linear: dict[int, Record], softmax: dict[int, Record]) -> str:
    ratio = (_value(softmax[n]) or 0.0) / (_value(linear[n]) or 1.0)
    return f"n = {n}: {ratio:.2f}×"
