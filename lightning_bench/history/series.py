"""One cell's figure over commits or dates."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from lightning_bench.errors import UsageError
from lightning_bench.history.changes import change_points
from lightning_bench.record import Record, merge, read_records
from lightning_bench.words import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

By = Literal["commit", "date"]
FIGURES = ("median_ms", "min_ms", "mean_ms", "call_ms", "graph_ms", "tflops", "gbps", "extra_mib", "peak_mib")


@dataclass(frozen=True)
class Point:
    """A commit or a moment: the median figure of its rows, their range, and the change from before.

    ``change`` is the ratio of this level to the one before, where a new level begins here.
    """

    label: str
    time_utc: str
    figure: float
    low: float
    high: float
    rows: int
    version: str
    change: float | None = None


@dataclass(frozen=True)
class History:
    """The points of one case on one machine, oldest first."""

    case_id: str
    device_name: str
    machine_id: str
    figure: str
    by: By
    points: list[Point]


def read_all(paths: Sequence[Path]) -> list[Record]:
    """Every row of the CSVs and of those below folders, those that ``--fresh`` set aside too, by time.

    UsageError where a path is not there and where no row is.
    """
    lists = []
    for path in paths:
        if not path.exists():
            raise UsageError(f"{path}: there is no such file or folder; give a CSV that lbench wrote")
        if path.is_dir():
            for file in sorted(path.rglob("*.csv")):
                with file.open("rb") as opened:
                    head = opened.readline()
                if all(name in head for name in (b"case_id", b"protocol", b"status")):
                    lists.append(read_records(file))
        else:
            lists.append(read_records(path))
    records = [record for record in merge(*lists) if record.time_utc]
    if not records:
        raise UsageError(f"no rows of lbench in {', '.join(map(str, paths))}; run `lbench speed` first")
    return records


def choose(
    records: Iterable[Record], figure: str, pattern: str | None, machine: str | None
) -> tuple[str, str]:
    """The case_id and machine_id that are meant; UsageError lists the choice where it is not one."""
    if figure not in FIGURES:
        raise UsageError(f"--figure {figure!r} is not known; allowed: {', '.join(FIGURES)}")
    there: dict[tuple[str, str], int] = {}
    for record in records:
        if getattr(record, figure):
            key = (record.case_id, record.machine_id)
            there[key] = there.get(key, 0) + 1
    if not there:
        raise UsageError(
            f"no row has {figure}; give another --figure: {', '.join(FIGURES)}, or another --protocol"
        )
    fits = [
        key
        for key in there
        if (pattern is None or fnmatch.fnmatchcase(key[0], pattern)) and machine in (None, key[1])
    ]
    if len(fits) == 1:
        return fits[0]
    best = sorted(fits or there, key=lambda key: -there[key])[:10]
    listed = "\n".join(
        f"  {case} on machine {where} ({counted(there[case, where], 'row')})" for case, where in best
    )
    many = len(fits or there)
    what = f"{many} cases match" if fits else "no case matches"
    raise UsageError(
        f"{what}; give one by --case, and --machine where there are several. "
        f"{'All' if many <= 10 else 'The ten with most rows'}:\n{listed}"
    )


def history(records: Iterable[Record], case_id: str, machine_id: str, figure: str, by: By) -> History:
    """The points of a case: one a commit in order of its first row, or one a row.

    Versions of a provider that one commit of the harness measured (another commit's kernels by ``--ref``, a
    repository of one's own) are points of their own.
    """
    rows = [
        record
        for record in records
        if record.case_id == case_id and record.machine_id == machine_id and getattr(record, figure)
    ]
    groups: dict[object, list[Record]] = {}
    for number, record in enumerate(rows):
        key = (record.harness_commit, record.provider_version) if by == "commit" else number
        groups.setdefault(key, []).append(record)
    points = [_point(members, figure, by) for members in groups.values()]
    logs = np.log([point.figure for point in points])
    edges = [0, *change_points(logs), len(points)]
    for before, here, after in zip(edges, edges[1:], edges[2:], strict=False):
        ratio = math.exp(float(np.median(logs[here:after]) - np.median(logs[before:here])))
        points[here] = replace(points[here], change=ratio)
    return History(case_id, rows[-1].device_name, machine_id, figure, by, points)


def _point(rows: Sequence[Record], figure: str, by: By) -> Point:
    values = [float(getattr(row, figure)) for row in rows]
    bounds = [(row.ci_low_ms, row.ci_high_ms) for row in rows]
    low, high = min(values), max(values)
    if figure == "median_ms" and len(rows) == 1 and bounds[0][0] and bounds[0][1]:
        low, high = bounds[0][0], bounds[0][1]
    first = rows[0]
    label = first.harness_commit or "unknown" if by == "commit" else first.time_utc
    return Point(
        label, first.time_utc, float(np.median(values)), low, high, len(rows), rows[-1].provider_version
    )


def plot(made: History) -> Figure:
    """The figure over commits or dates, its range, the median of each level, and a line at every change."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(8, 4), layout="constrained")
    axes = picture.subplots()
    places = list(range(len(made.points)))
    values = [point.figure for point in made.points]
    spread = [
        [point.figure - point.low for point in made.points],
        [point.high - point.figure for point in made.points],
    ]
    axes.errorbar(places, values, yerr=np.maximum(spread, 0), fmt="o", color="#0072b2", ecolor="#9ecae1")
    edges = [0, *(i for i, point in enumerate(made.points) if point.change is not None), len(places)]
    for begin, end in pairwise(edges):
        level = float(np.median(values[begin:end]))
        axes.hlines(level, begin - 0.4, end - 0.6, color="#444444", linewidth=1)
    for index in edges[1:-1]:
        change = made.points[index].change or 1.0
        axes.axvline(index - 0.5, color="#d55e00", linestyle="--")
        axes.annotate(
            f"{100 * (change - 1):+.1f} %",
            (index - 0.5, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(3, -12),
            textcoords="offset points",
            color="#d55e00",
        )
    step = max(1, len(places) // 12)
    labels = [point.label[:10] for point in made.points]
    axes.set_xticks(places[::step], labels[::step], rotation=30, ha="right")
    axes.set_ylabel(
        made.figure.replace("_", ", ", 1) if made.figure.endswith(("_ms", "_mib")) else made.figure
    )
    axes.set_title(f"{made.case_id}\n{made.device_name}", fontsize=10)
    axes.margins(y=0.15)
    return picture
