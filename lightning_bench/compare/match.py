"""Which rows belong to one cell, and what can be said of it without statistics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from lightning_bench.compare.result import Cell, Verdict
from lightning_bench.compare.sides import Run
from lightning_bench.record import FAILED, Record

WORKS = frozenset({"ok", "unstable"})
MEMORY_LIMIT = 1.005
"""Allocations are deterministic: growth beyond this ratio is a change."""

_Place = tuple[str, str]
_VERSIONS = ("protocol", "device_name", "driver", "cuda", "torch", "triton", "python", "harness_version")


@dataclass(frozen=True)
class Versus:
    """The blocks of one cell on both sides, for the rule to judge; ``cell`` lacks its verdict still."""

    cell: Cell
    base: list[Run]
    head: list[Run]


@dataclass
class Matched:
    """Cells that need no rule, cells that do, and the statuses of those with a figure on neither side.

    ``elsewhere`` counts cells that were compared on one machine, while one side has rows of another too.
    """

    settled: list[Cell] = field(default_factory=list)
    timed: list[Versus] = field(default_factory=list)
    neither: list[str] = field(default_factory=list)
    elsewhere: int = 0


def match(base: Iterable[Run], head: Iterable[Run], *, across_machines: bool = False) -> Matched:
    """Pair the cells of both sides by metric and case, on one machine and by one protocol.

    With ``across_machines`` machines and versions may differ; protocols never may. A protocol that one side
    alone has of a case is a cell of its own.
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
        if shared:
            matched.elsewhere += any(_elsewhere(side, shared) for side in (ours, theirs))
        elif across_machines and (pair := _across(ours, theirs)) is not None:
            pairs = [pair]
        else:
            matched.settled.append(_incomparable(ours, theirs))
            continue
        for base_runs, head_runs in pairs:
            _settle(matched, base_runs, head_runs, across_machines=across_machines)
        protocols = {runs[0].record.protocol for runs, _ in pairs}
        for side, base_alone in ((ours, True), (theirs, False)):
            for protocol in dict.fromkeys(place[0] for place in side if place[0] not in protocols):
                alone = [run for place, runs in side.items() if place[0] == protocol for run in runs]
                _one_sided(matched, alone, base_alone)
    return matched


def _by_case(runs: Iterable[Run]) -> dict[tuple[str, str], dict[_Place, list[Run]]]:
    cases: dict[tuple[str, str], dict[_Place, list[Run]]] = {}
    for run in runs:
        r = run.record
        places = cases.setdefault((r.metric, r.case_id), {})
        places.setdefault((r.protocol, r.machine_id), []).append(run)
    return cases


def _last(runs: Sequence[Run]) -> Run:
    """The latest; of those of one second the one that comes last."""
    return max(enumerate(runs), key=lambda one: (one[1].record.time_utc, one[0]))[1]


def _blocks(runs: Sequence[Run]) -> list[Run]:
    """Runs that count: of the latest version, those of a pass, and the last of each file besides."""
    version = _last(runs).record.provider_version
    kept: dict[object, Run] = {}
    for run in runs:
        if run.record.provider_version == version and run.log_ms is not None:
            kept[run.pair or run.source] = run
    return list(kept.values())


def _end(runs: Sequence[Run]) -> tuple[Record, str]:
    """The last row, or of several files that of one which ended in a row that did not work; and how."""
    last = _last(runs).record
    files: dict[object, list[Run]] = {}
    for run in runs:
        if run.record.provider_version == last.provider_version:
            files.setdefault(run.source, []).append(run)
    ends = [_last(each) for each in files.values()]
    if failed := [run for run in ends if run.record.status not in WORKS]:
        record = _last(failed).record
        often = f" (in {len(failed)} of {len(ends)} runs)" if len(ends) > 1 else ""
        return record, f"{_ending(record)}{often}"
    return last, _ending(last)


def _settle(matched: Matched, base: list[Run], head: list[Run], *, across_machines: bool) -> None:
    before = _last(base).record
    now, ended = _end(head)
    if before.harness_version != now.harness_version and not across_machines:
        matched.settled.append(_cell(now, "INCOMPARABLE", _differences(before, now)))
    elif before.status in WORKS and now.status in WORKS:
        if now.metric == "memory":
            matched.settled.append(_memory(before, now))
        elif now.metric == "check":
            matched.settled.append(_cell(now, "SAME", "right on both sides"))
        else:
            base_blocks, head_blocks = _blocks(base), _blocks(head)
            if base_blocks and head_blocks:
                notes = [_unstable("base", base_blocks), _unstable("head", head_blocks)]
                note = "; ".join(filter(None, notes))
                matched.timed.append(Versus(_cell(now, "AMBIGUOUS", note), base_blocks, head_blocks))
            else:
                matched.settled.append(_without_figure(now, "time", had_one=bool(base_blocks)))
    elif before.status in WORKS:
        matched.settled.append(_cell(now, "BROKEN", f"now {ended}"))
    elif now.status in WORKS:
        fixed = before.status in FAILED | {"oom"}
        matched.settled.append(_cell(now, "FIXED" if fixed else "NEW", f"before {_ending(before)}"))
    else:
        matched.neither.append(now.status)


def _unstable(side: str, blocks: Sequence[Run]) -> str:
    found = [run.record.reason for run in blocks if run.record.status == "unstable"]
    often = f" in {len(found)} of {len(blocks)} blocks" if len(blocks) > 1 else ""
    return f"{side} unstable{often}: {found[-1]}" if found else ""


def _without_figure(record: Record, figure: str, *, had_one: bool) -> Cell:
    """A row that worked and has no figure: no pass where the base has one."""
    return _cell(record, "BROKEN" if had_one else "INCOMPARABLE", f"a row that worked has no {figure}")


def _elsewhere(side: dict[_Place, list[Run]], compared: list[_Place]) -> bool:
    return any(place not in compared and place[0] in {one[0] for one in compared} for place in side)


def _one_sided(matched: Matched, runs: Sequence[Run], base: bool) -> None:
    record = _last(runs).record
    if record.status in WORKS:
        side = "head" if base else "base"
        matched.settled.append(_cell(record, "MISSING" if base else "NEW", f"no row in {side}"))
    elif not base and record.status in FAILED:
        matched.settled.append(_cell(record, "NEW", f"new, and {_ending(record)}"))
    else:
        matched.neither.append(record.status)


def _across(
    ours: dict[_Place, list[Run]], theirs: dict[_Place, list[Run]]
) -> tuple[list[Run], list[Run]] | None:
    """The latest machine of each side, of a protocol that both have."""
    for protocol in dict.fromkeys(place[0] for place in ours):
        sides = [[runs for place, runs in one.items() if place[0] == protocol] for one in (ours, theirs)]
        if all(sides):
            base, head = (max(one, key=lambda runs: _last(runs).record.time_utc) for one in sides)
            return base, head
    return None


def _incomparable(ours: dict[_Place, list[Run]], theirs: dict[_Place, list[Run]]) -> Cell:
    before, now = (_last([run for runs in side.values() for run in runs]).record for side in (ours, theirs))
    return _cell(now, "INCOMPARABLE", _differences(before, now))


def _differences(before: Record, now: Record) -> str:
    changed = [
        f"{name} {getattr(before, name) or 'none'} → {getattr(now, name) or 'none'}"
        for name in _VERSIONS
        if getattr(before, name) != getattr(now, name)
    ]
    return "; ".join(changed) or f"machine {before.machine_id} → {now.machine_id}"


def _memory(before: Record, now: Record) -> Cell:
    """Worst growth of what the call adds and of what it keeps; of protocol paper, the peak."""
    names = ("extra_mib", "saved_mib") if now.protocol == "lbench" else ("peak_mib",)
    figures = [
        (name, old, new)
        for name in names
        if (old := getattr(before, name)) is not None and (new := getattr(now, name)) is not None
    ]
    if not figures:
        had_one = any(getattr(before, name) is not None for name in names)
        return _without_figure(now, "memory figure", had_one=had_one)

    def growth(old: float, new: float) -> float:
        return new / old if old else (1.0 if not new else float("inf"))

    name, old, new = max(figures, key=lambda one: growth(one[1], one[2]))
    verdict: Verdict = "GREW" if growth(old, new) > MEMORY_LIMIT else "SAME"
    if verdict == "SAME":
        name, old, new = min(figures, key=lambda one: growth(one[1], one[2]))
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


def _cell(record: Record, verdict: Verdict, detail: str) -> Cell:
    return Cell(
        verdict=verdict,
        metric=record.metric,
        protocol=record.protocol,
        case_id=record.case_id,
        provider=record.provider,
        family=record.family,
        direction=record.direction,
        detail=detail,
    )
