"""What the page says first: the device, the days, the versions, and who is fastest in a few sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_bench.record import Record
from lightning_bench.report.page.summary import Crossing, Standing
from lightning_bench.report.tables.origin import VERSIONS, distinct

_CROSSINGS = 2
_COMMITS = 2  # that are named; a folder of results may have been measured at ten


@dataclass(frozen=True)
class Masthead:
    """The page's title, the day or days of its rows, and the lines of versions below."""

    title: str
    days: str
    versions: str


def masthead(records: Sequence[Record], heading: str, *, compared: bool) -> Masthead:
    """Return the masthead of rows that were measured by lightning-bench.

    Its title is their device; `heading` where that is not known, and where they are `compared` with others.
    """
    ours = [r for r in records if r.harness_version or r.time_utc]
    devices = distinct(r.device_name for r in ours)
    days = sorted({r.time_utc[:10] for r in ours if r.time_utc})
    parts = [f"{name} {text}" for name, column in VERSIONS.items() if (text := _distinct(ours, column))]
    commits = list(
        dict.fromkeys(r.harness_commit for r in sorted(ours, key=lambda r: r.time_utc, reverse=True))
    )
    commits = [commit for commit in commits if commit]
    if version := _distinct(ours, "harness_version"):
        more = f" and {len(commits) - _COMMITS} more" if len(commits) > _COMMITS else ""
        at = f" at {', '.join(commits[:_COMMITS])}{more}" if commits else ""
        parts.append(f"lightning-bench {version}{at}")
    if compared and devices:
        parts.insert(0, devices)
    return Masthead(
        (not compared and devices) or heading,
        " to ".join(dict.fromkeys([*days[:1], *days[-1:]])),
        ", ".join(parts),
    )


def sentences(
    standings: Sequence[Standing], crossings: Sequence[Crossing], sweep: str, *, most: int
) -> list[str]:
    """Return at most `most` sentences on who is fastest: those on the sweep of this name first.

    A provider is named if it leads in more than half the cells of a sweep by protocol lbench.
    """
    crossed = [_crossed(c) for c in crossings if c.sweep == sweep][:_CROSSINGS]
    leaders = [
        s
        for s in standings
        if s.what.startswith("time") and 2 * s.won > s.cells and "protocol lbench" in s.sweep
    ]
    leaders.sort(key=lambda s: (not s.sweep.startswith(sweep), -s.cells))
    return [*map(_led, leaders[: most - len(crossed)]), *crossed]


def _led(s: Standing) -> str:
    where = "the only cell" if s.cells == 1 else f"{s.won} of {s.cells} cells"
    return (
        f"{_place(s.sweep, s.what.removeprefix('time, '))}: {s.winner} leads {s.family} in {where}, {s.by}."
    )


def _crossed(c: Crossing) -> str:
    (first, ratio), (last, then) = (end.split(": ") for end in (c.shortest, c.longest))
    place = _place(c.sweep, c.what.split(",")[0])
    return (
        f"{place}: the fastest softmax attention takes {ratio} as long as the "
        f"fastest linear attention at {first} and {then} at {last} ({c.names}); that compares mechanisms."
    )


def _place(sweep: str, direction: str) -> str:
    return f"Suite {sweep.replace(', protocol lbench', '')}, {direction}"


def _distinct(records: Sequence[Record], column: str) -> str:
    return distinct(getattr(r, column) for r in records)
