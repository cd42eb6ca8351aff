"""Which rows belong to one cell, and the verdicts that need no statistics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from lightning_bench.comparison.result import ENERGY, NEW_FAULT, SAME_ROW, ComparedCell, Verdict
from lightning_bench.comparison.sides import Run
from lightning_bench.record import FAILED, Record
from lightning_bench.words import without_processes

MEMORY_LIMIT = 1.005
"""Allocations are deterministic: growth beyond this ratio is a change."""

_Place = tuple[str, str]
_VERSIONS = ("protocol", "device_name", "driver", "cuda", "torch", "triton", "python", "harness_version")


@dataclass(frozen=True)
class Versus:
    """The blocks of one cell on both sides, for the rule to judge; `record` is the latest of head."""

    record: Record
    detail: str
    base: list[Run]
    head: list[Run]


@dataclass
class Matched:
    """Cells that need no rule, cells that do, and the statuses of those with a figure on neither side.

    `elsewhere` counts cells that were compared on one machine while one side has rows of another too;
    `copied` counts those of which a side has one row in several files.
    """

    settled: list[ComparedCell] = field(default_factory=list)
    timed: list[Versus] = field(default_factory=list)
    neither: list[str] = field(default_factory=list)
    elsewhere: int = 0
    copied: int = 0


def match(base: Iterable[Run], head: Iterable[Run], *, across_machines: bool = False) -> Matched:
    """Pair the cells of both sides by metric and case, on one machine and by one protocol.

    With `across_machines` machines and versions may differ; protocols never may. A protocol that only one
    side has of a case is a separate cell.
    """
    sides = (_by_case(base), _by_case(head))
    matched = Matched()
    for key in dict.fromkeys([*sides[0], *sides[1]]):
        ours, theirs = sides[0].get(key, {}), sides[1].get(key, {})
        if not ours or not theirs:
            _one_sided(matched, [run for runs in (ours or theirs).values() for run in runs], bool(ours))
            continue
        shared = [place for place in ours if place in theirs]
        pairs = [(ours[place], theirs[place]) for place in shared]
        if shared and not across_machines and _moved(theirs, shared):
            matched.settled.append(_incomparable(ours, theirs))
            continue
        if shared:
            matched.elsewhere += any(_elsewhere(side, shared) for side in (ours, theirs) if len(side) > 1)
        elif across_machines and (pair := _across(ours, theirs)) is not None:
            pairs = [pair]
        else:
            matched.settled.append(_incomparable(ours, theirs))
            continue
        for base_runs, head_runs in pairs:
            _settle(matched, base_runs, head_runs, across_machines=across_machines)
        protocols = {runs[0].record.protocol for runs, _ in pairs}
        for side, is_base in ((ours, True), (theirs, False)):
            for protocol in dict.fromkeys(place[0] for place in side if place[0] not in protocols):
                runs = [run for place, of_place in side.items() if place[0] == protocol for run in of_place]
                _one_sided(matched, runs, is_base)
    return matched


def _by_case(runs: Iterable[Run]) -> dict[tuple[str, str], dict[_Place, list[Run]]]:
    cases: dict[tuple[str, str], dict[_Place, list[Run]]] = {}
    for run in runs:
        r = run.record
        places = cases.setdefault((r.metric, r.case_id), {})
        places.setdefault((r.protocol, r.machine_id), []).append(run)
    return cases


def _last(runs: Sequence[Run]) -> Run:
    """Return the latest run: within a file by its place, whatever the clock was set to; of files by time."""
    ends = {run.source: run for run in runs}
    last = runs[-1]
    for run in ends.values():
        last = run if run.record.time_utc > last.record.time_utc else last
    return last


def _blocks(runs: Sequence[Run]) -> list[Run]:
    """Return the runs of the latest version that count: one per pass, else the last of each file."""
    version = _last(runs).record.provider_version
    kept: dict[object, Run] = {}
    for run in runs:
        if run.record.provider_version == version and run.log_ms is not None:
            kept[run.pair or run.source] = run
    return list(kept.values())


def _records(runs: Sequence[Run]) -> list[Record]:
    return [run.record for run in runs]


def _distinct(runs: Sequence[Run]) -> list[Run]:
    """Return the runs without those whose row an earlier one has: a copied file is no second run."""
    kept: list[Run] = []
    for run in runs:
        if run.record not in _records(kept):
            kept.append(run)
    return kept


def _end(runs: Sequence[Run]) -> tuple[Record, str]:
    """Return the last row, and how it ended; of several files, that of one whose last row did not work."""
    last = _last(runs).record
    files = {run.source: run for run in runs if run.record.provider_version == last.provider_version}
    ends = list(files.values())
    if failed := [run for run in ends if not run.record.worked]:
        record = _last(failed).record
        often = f" (in {len(failed)} of {len(ends)} runs)" if len(ends) > 1 else ""
        return record, f"{_ending(record)}{often}"
    return last, _ending(last)


def _settle(matched: Matched, base: list[Run], head: list[Run], *, across_machines: bool) -> None:
    before = _last(base).record
    now, ended = _end(head)
    if before.worked and _records(base) == _records(head):
        matched.settled.append(_cell(now, "INCOMPARABLE", SAME_ROW))
    elif before.harness_version != now.harness_version and not across_machines:
        matched.settled.append(_cell(now, "INCOMPARABLE", _differences(before, now)))
    elif before.worked and now.worked:
        if now.metric in ("memory", "check") and before == now:
            matched.settled.append(_cell(now, "INCOMPARABLE", SAME_ROW))
        elif now.metric == "memory":
            matched.settled.append(_memory(before, now))
        elif now.metric == "check":
            matched.settled.append(_cell(now, "SAME", "right on both sides"))
        elif now.metric == "energy":
            matched.settled.append(_cell(now, "INCOMPARABLE", ENERGY))
        else:
            every = [_blocks(base), _blocks(head)]
            base_blocks, head_blocks = (_distinct(blocks) for blocks in every)
            matched.copied += [base_blocks, head_blocks] != every
            ours = _records(base_blocks)
            if any(record in ours for record in _records(head_blocks)):
                matched.settled.append(_cell(now, "INCOMPARABLE", SAME_ROW))
            elif base_blocks and head_blocks:
                notes = [_unstable("base", base_blocks), _unstable("head", head_blocks)]
                matched.timed.append(Versus(now, "; ".join(filter(None, notes)), base_blocks, head_blocks))
            else:
                matched.settled.append(_without_figure(now, "time", in_base=bool(base_blocks)))
    elif before.worked:
        matched.settled.append(_cell(now, "BROKEN", f"now {ended}"))
    elif now.worked:
        fixed = before.status in FAILED | {"oom"}
        matched.settled.append(_cell(now, "FIXED" if fixed else "NEW", f"before {_ending(before)}"))
    else:
        matched.neither.append(now.status)


def _unstable(side: str, blocks: Sequence[Run]) -> str:
    found = [run.record.reason for run in blocks if run.record.status == "unstable"]
    often = f" in {len(found)} of {len(blocks)} blocks" if len(blocks) > 1 else ""
    return f"{side} unstable{often}: {without_processes(found[-1])}" if found else ""


def _without_figure(record: Record, figure: str, *, in_base: bool) -> ComparedCell:
    """Return the cell of a row that worked and has no figure: BROKEN if the base has one."""
    return _cell(record, "BROKEN" if in_base else "INCOMPARABLE", f"a row that worked has no {figure}")


def _moved(head: dict[_Place, list[Run]], shared: list[_Place]) -> bool:
    """Return whether head was last measured on a machine that base lacks: older rows say nothing of it."""
    protocols = {protocol for protocol, _ in shared}
    last = _last([run for place, runs in head.items() if place[0] in protocols for run in runs]).record
    return (last.protocol, last.machine_id) not in shared


def _elsewhere(side: dict[_Place, list[Run]], compared: list[_Place]) -> bool:
    protocols = {protocol for protocol, _ in compared}
    return any(place not in compared and place[0] in protocols for place in side)


def _one_sided(matched: Matched, runs: Sequence[Run], is_base: bool) -> None:
    record = _last(runs).record
    if record.worked:
        other = "head" if is_base else "base"
        matched.settled.append(_cell(record, "MISSING" if is_base else "NEW", f"no row in {other}"))
    elif not is_base and record.status in FAILED:
        matched.settled.append(_cell(record, "NEW", f"{NEW_FAULT}{_ending(record)}"))
    else:
        matched.neither.append(record.status)


def _across(
    ours: dict[_Place, list[Run]], theirs: dict[_Place, list[Run]]
) -> tuple[list[Run], list[Run]] | None:
    """Return the runs of the latest machine of each side, by a protocol that both have."""
    for protocol in dict.fromkeys(place[0] for place in ours):
        sides = [[runs for place, runs in side.items() if place[0] == protocol] for side in (ours, theirs)]
        if all(sides):
            base, head = (_latest(side) for side in sides)
            return base, head
    return None


def _latest(places: Sequence[list[Run]]) -> list[Run]:
    last = _last([run for runs in places for run in runs])
    return next(runs for runs in places if any(run is last for run in runs))


def _incomparable(ours: dict[_Place, list[Run]], theirs: dict[_Place, list[Run]]) -> ComparedCell:
    before, now = (_last([run for runs in side.values() for run in runs]).record for side in (ours, theirs))
    return _cell(now, "INCOMPARABLE", _differences(before, now))


def _differences(before: Record, now: Record) -> str:
    changed = [
        f"{name} {getattr(before, name) or 'none'} → {getattr(now, name) or 'none'}"
        for name in _VERSIONS
        if getattr(before, name) != getattr(now, name)
    ]
    return "; ".join(changed) or f"machine {before.machine_id} → {now.machine_id}"


def _memory(before: Record, now: Record) -> ComparedCell:
    """Judge the worst growth of what the call adds and of what it keeps; of protocol paper, of the peak."""
    names = ("extra_mib", "saved_mib") if now.protocol == "lbench" else ("peak_mib",)
    figures = [
        (name, old, new)
        for name in names
        if (old := getattr(before, name)) is not None and (new := getattr(now, name)) is not None
    ]
    if not figures:
        in_base = any(getattr(before, name) is not None for name in names)
        return _without_figure(now, "memory figure", in_base=in_base)

    def growth(old: float, new: float) -> float:
        return new / old if old else (1.0 if not new else float("inf"))

    name, old, new = max(figures, key=lambda figure: growth(figure[1], figure[2]))
    verdict: Verdict = "GREW" if growth(old, new) > MEMORY_LIMIT else "SAME"
    if verdict == "SAME":
        name, old, new = min(figures, key=lambda figure: growth(figure[1], figure[2]))
        verdict = "SHRANK" if growth(old, new) < 1 / MEMORY_LIMIT else "SAME"
    if verdict == "SAME":
        name, old, new = figures[0]
    ratio = growth(old, new)
    return replace(
        _cell(now, verdict, "" if name == "extra_mib" else name),
        base=old,
        head=new,
        unit="MiB",
        ratio=None if ratio == float("inf") else ratio,
    )


def _ending(record: Record) -> str:
    return f"{record.status}: {record.reason}" if record.reason else record.status


def _cell(record: Record, verdict: Verdict, detail: str) -> ComparedCell:
    return ComparedCell(
        verdict=verdict,
        metric=record.metric,
        protocol=record.protocol,
        case_id=record.case_id,
        provider=record.provider,
        family=record.family,
        direction=record.direction,
        detail=detail,
    )
