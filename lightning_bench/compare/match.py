"""Which rows belong to one cell, and what can be said of it without statistics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from lightning_bench.compare.load import Run
from lightning_bench.compare.result import Cell, Verdict
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


@dataclass(frozen=True)
class Matched:
    """Cells that need no rule, cells that do, and how many have a figure on neither side, by status."""

    settled: list[Cell]
    timed: list[Versus]
    neither: list[str]


def match(base: Iterable[Run], head: Iterable[Run], *, across_machines: bool = False) -> Matched:
    """Pair the cells of both sides by metric and case, on one machine and by one protocol.

    With ``across_machines`` machines and versions may differ; protocols never may.
    """
    sides = (_by_case(base), _by_case(head))
    matched = Matched([], [], [])
    for key in dict.fromkeys([*sides[0], *sides[1]]):
        ours, theirs = sides[0].get(key, {}), sides[1].get(key, {})
        if not ours or not theirs:
            only = _last([run for runs in (ours or theirs).values() for run in runs])
            _one_sided(matched, only, "MISSING" if ours else "NEW")
            continue
        shared = [place for place in ours if place in theirs]
        pairs = [(ours[place], theirs[place]) for place in shared]
        if not pairs:
            pair = _across(ours, theirs)
            if pair is None or not across_machines:
                matched.settled.append(_incomparable(ours, theirs))
                continue
            pairs = [pair]
        for base_runs, head_runs in pairs:
            _settle(matched, base_runs, head_runs, across_machines=across_machines)
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


def _settle(matched: Matched, base: list[Run], head: list[Run], *, across_machines: bool) -> None:
    before, now = _last(base).record, _last(head).record
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
                note = "; ".join(
                    f"{side} unstable: {one.reason}"
                    for side, one in (("base", before), ("head", now))
                    if one.status == "unstable"
                )
                matched.timed.append(Versus(_cell(now, "AMBIGUOUS", note), base_blocks, head_blocks))
            else:
                matched.settled.append(_cell(now, "INCOMPARABLE", "a row that worked has no time"))
    elif before.status in WORKS:
        matched.settled.append(_cell(now, "BROKEN", f"now {_ending(now)}"))
    elif now.status in WORKS:
        fixed = before.status in FAILED | {"oom"}
        matched.settled.append(_cell(now, "FIXED" if fixed else "NEW", f"before {_ending(before)}"))
    else:
        matched.neither.append(now.status)


def _one_sided(matched: Matched, run: Run, verdict: Verdict) -> None:
    record = run.record
    if record.status in WORKS:
        detail = "no row in head" if verdict == "MISSING" else "no row in base"
        matched.settled.append(_cell(record, verdict, detail))
    elif verdict == "NEW" and record.status in FAILED:
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
        return _cell(now, "INCOMPARABLE", "a row that worked has no memory figure")

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
