"""Who is fastest where, by how much, and how sure: the rows' own intervals, family by family."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lightning_bench.record import Record, Row
from lightning_bench.record.row import VARIANT
from lightning_bench.report.collect import ORIGIN, SHAPE, frame_of, rows_by, rows_in
from lightning_bench.report.tables.figures import figure, figure_text
from lightning_bench.words import DIRECTION_WORDS

_CELL = ("device", "dtype", "batch", "heads", "seq_len", "head_dim", "value_dim", *VARIANT, "ranks")


@dataclass(frozen=True)
class Standing:
    """One line of the summary: of the cells of a sweep and family, those that `winner` leads."""

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
    """One cell: who leads it, whose figure is next and by which factor; `sure` is None if unknown."""

    names: tuple[str, ...]
    second: str
    ratio: float | None
    sure: bool | None


@dataclass(frozen=True)
class _Sweep:
    """The rows of one suite, protocol, machine, metric, direction and family, and what to call them."""

    name: str
    first: Record
    cells: list[list[Row]]


def standings(rows: Iterable[Row]) -> list[Standing]:
    """Return the leaders of each suite, protocol, machine, metric, direction and family.

    A sweep's lines follow each other, times before memory; protocol lbench comes before paper, and of several
    leaders the one with most cells.

    A cell is a shape with its length. Providers whose figures print the same lead it together. A lead in
    time is sure if the 95 % intervals of the two medians have nothing in common, or the ranges from the 20th
    to the 80th percentile if a row has no interval; never if one of the two is unstable.
    """
    found = []
    sweeps = _sweeps(rows)
    places = {name: place for place, name in enumerate(dict.fromkeys(sweep.name for sweep in sweeps))}

    def order(sweep: _Sweep) -> tuple[bool, int, bool]:
        return sweep.first.protocol != "lbench", places[sweep.name], sweep.first.metric != "speed"

    for sweep in sorted(sweeps, key=order):
        leads = [lead for cell in sweep.cells if (lead := _lead([row.record for row in cell]))]
        by_names: dict[tuple[str, ...], list[_Lead]] = {}
        for lead in leads:
            by_names.setdefault(lead.names, []).append(lead)
        what = "time" if sweep.first.metric == "speed" else "memory"
        found += [
            Standing(
                sweep=sweep.name,
                what=f"{what}, {DIRECTION_WORDS[sweep.first.direction]}",
                family=sweep.first.family,
                winner=" and ".join(names) + (", alike" if len(names) > 1 else ""),
                won=len(won),
                cells=len(leads),
                by=_by(won, sweep.first),
                sure=_sure(won, sweep.first),
            )
            for names, won in sorted(by_names.items(), key=lambda item: -len(item[1]))
        ]
    return found


def crossings(rows: Iterable[Row]) -> list[Crossing]:
    """Return the fastest linear against the fastest softmax attention, where both have two lengths."""
    found = []
    timed = [row for row in rows if row.record.metric == "speed" and row.record.heads and _value(row.record)]
    for members in rows_by(frame_of(timed), (*ORIGIN, *SHAPE)).values():
        records = [row.record for row in members]
        softmax = _fastest(r for r in records if r.family == "softmax")
        linear = _fastest(r for r in records if r.family in ("linear_decay", "linear"))
        shared = sorted(softmax.keys() & linear.keys())
        if len(shared) < 2:
            continue
        ends = (shared[0], shared[-1])
        pairs = dict.fromkeys(f"{linear[n].provider} against {softmax[n].provider}" for n in ends)
        found.append(
            Crossing(
                sweep=_sweep_name(records[0]),
                what=f"{DIRECTION_WORDS[records[0].direction]}, {_shape(records[0])}",
                names=" and ".join(pairs),
                shortest=_at(ends[0], linear, softmax),
                longest=_at(ends[1], linear, softmax),
            )
        )
    return found


def _sweeps(rows: Iterable[Row]) -> list[_Sweep]:
    frame = frame_of(rows)
    several = frame["machine_id"].nunique() > 1
    machine = ["device_name", "machine_id"] if several else []
    names = ["suite", "protocol", *machine, "metric", "direction", "family"]
    chosen = frame[frame["metric"].isin(["speed", "memory"]) & (frame["heads"] != 0)]
    sweeps = []
    for _, members in chosen[[*names, *_CELL, "row"]].groupby(names, sort=False):
        first = rows_in(members)[0].record
        name = _sweep_name(first) + (f", {first.device_name} {first.machine_id}" if several else "")
        sweeps.append(_Sweep(name, first, list(rows_by(members, _CELL).values())))
    return sweeps


def _sweep_name(r: Record) -> str:
    return f"{r.suite or 'no suite'}, protocol {r.protocol}"


def _shape(r: Record) -> str:
    dims = str(r.head_dim) if r.head_dim == r.value_dim else f"{r.head_dim}/{r.value_dim}"
    words = [f"batch {r.batch}", f"{r.heads} heads", f"head_dim {dims}", r.dtype, r.shape.variant.words]
    words += [f"{r.ranks} ranks"] * bool(r.ranks)
    return ", ".join(filter(None, words))


def _value(r: Record) -> float | None:
    return figure(r) if r.worked else None


def _text(r: Record) -> str:
    return figure_text(r, _value(r) or 0.0)


def _lead(records: Sequence[Record]) -> _Lead | None:
    """Return who leads one cell; None if fewer than two providers have a figure."""
    have = sorted((r for r in records if _value(r) is not None), key=lambda r: _value(r) or 0.0)
    if len({r.provider for r in have}) < 2:
        return None
    first = have[0]
    equal = [r for r in have if _text(r) == _text(first)]
    names = tuple(dict.fromkeys(r.provider for r in equal))
    behind = have[len(equal) :]
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
    lead, rival = _interval(first), _interval(second)
    if lead is None or rival is None or lead[2] != rival[2]:
        return None
    return lead[1] < rival[0] and "unstable" not in (first.status, second.status)


def _interval(r: Record) -> tuple[float, float, str] | None:
    if r.ci_low_ms is not None and r.ci_high_ms is not None:
        return r.ci_low_ms, r.ci_high_ms, "95 % intervals"
    if r.p20_ms is not None and r.p80_ms is not None:
        return r.p20_ms, r.p80_ms, "20th to 80th percentiles"
    return None


def _by(leads: Sequence[_Lead], first: Record) -> str:
    ratios = [lead.ratio for lead in leads if lead.ratio is not None]
    if not ratios:
        return "no slower provider" if first.metric == "speed" else "no other needs more"
    low, high = f"{min(ratios):.2f}×", f"{max(ratios):.2f}×"
    span = low if low == high else f"{low} to {high}"
    if high == "1.00×":
        span = "less than 0.5 %"
    seconds = Counter(lead.second for lead in leads if lead.second)
    return f"{span} {'faster' if first.metric == 'speed' else 'less'} than {', '.join(seconds)}"


def _sure(leads: Sequence[_Lead], first: Record) -> str:
    if first.metric != "speed":
        return "counted by the allocator: no spread"
    known = [lead.sure for lead in leads if lead.sure is not None]
    if not known:
        return "not known: these rows keep no interval"
    kind = _interval(first)
    return f"{kind[2] if kind else 'intervals'} apart in {sum(known)} of {len(leads)}"


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
