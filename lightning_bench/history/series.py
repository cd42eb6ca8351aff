"""One case's figure over commits, days or runs."""

from __future__ import annotations

import fnmatch
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from lightning_bench.comparison.match import MEMORY_LIMIT
from lightning_bench.comparison.noise import Noises, assumed
from lightning_bench.comparison.rule import Floats
from lightning_bench.errors import UsageError
from lightning_bench.history.changes import change_points
from lightning_bench.history.committed import with_committed
from lightning_bench.record import COLUMNS
from lightning_bench.record.frame import load
from lightning_bench.words import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

By = Literal["commit", "day", "run"]
FIGURES = ("median_ms", "min_ms", "mean_ms", "call_ms", "graph_ms", "tflops", "gbps", "extra_mib", "peak_mib")
_EXACT = ("extra_mib", "peak_mib")


@dataclass(frozen=True)
class Point:
    """A commit, a day or a run: the median figure of its rows and their range, in the unit of the figure.

    `change` is the ratio of this level to the one before, if a new level begins here.
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
    """The points of one case on one machine, oldest first; a change is of at least `least_percent`."""

    case_id: str
    device_name: str
    machine_id: str
    figure: str
    by: By
    points: list[Point]
    least_percent: float


def read_history(paths: Sequence[Path], *, committed: bool = False) -> pd.DataFrame:
    """Return every row of the CSVs and folders by time, each once, with those that `--fresh` set aside.

    With `committed` also the rows that earlier commits have of them. Raises UsageError if a path does not
    exist, if there are no rows, and with `committed` if a path is in no git repository.
    """
    rows = load(paths, set_aside=True)
    if committed:
        rows = with_committed(rows, paths)
    rows = rows[rows["time_utc"] != ""].drop_duplicates(list(COLUMNS)).sort_values("time_utc", kind="stable")
    if rows.empty:
        raise UsageError(f"no rows of lbench in {', '.join(map(str, paths))}; run `lbench speed` first")
    return rows


def choose_case(rows: pd.DataFrame, figure: str, pattern: str | None, machine: str | None) -> tuple[str, str]:
    """Return the only case_id and machine_id that match; UsageError lists the choice if there is not one."""
    if figure not in FIGURES:
        raise UsageError(f"--figure {figure!r} is not known; allowed: {', '.join(FIGURES)}")
    measured = _with_figure(rows, figure)
    found = Counter(zip(measured["case_id"], measured["machine_id"], strict=True))
    if not found:
        raise UsageError(
            f"no row has {figure}; give another --figure: {', '.join(FIGURES)}, or another --protocol"
        )
    matching = [
        (case_id, machine_id)
        for case_id, machine_id in found
        if (pattern is None or fnmatch.fnmatchcase(case_id, pattern)) and machine in (None, machine_id)
    ]
    if len(matching) == 1:
        return matching[0]
    most = sorted(matching or found, key=lambda key: -found[key])[:10]
    listed = "\n".join(
        f"  {case_id} on machine {machine_id} ({counted(found[case_id, machine_id], 'row')})"
        for case_id, machine_id in most
    )
    many = len(matching or found)
    what = f"{many} cases match" if matching else "no case matches"
    raise UsageError(
        f"{what}; give one by --case, and --machine where there are several. "
        f"{'All' if many <= 10 else 'The ten with most rows'}:\n{listed}"
    )


def trace_figure(
    rows: pd.DataFrame, case: tuple[str, str], figure: str, by: By, least: float | None, noises: Noises
) -> History:
    """Return the points of a case on a machine: one per commit in order of its first row, per day or per row.

    Versions of a provider that one commit of the harness measured (another commit's kernels by `--ref`, a
    repository of one's own) are separate points. `least` is the smallest relative change of level that
    counts; by default twice the noise of a process, as calibrated or else assumed.
    """
    case_id, machine_id = case
    rows = _with_figure(rows, figure)
    rows = rows[(rows["case_id"] == case_id) & (rows["machine_id"] == machine_id)]
    keys: dict[By, list[Any]] = {
        "commit": ["harness_commit", "provider_version"],
        "day": [rows["time_utc"].str[:10]],
        "run": [np.arange(len(rows))],
    }
    points = [_point(members, figure, by) for _, members in rows.groupby(keys[by], sort=False)]
    logs = np.log([point.figure for point in points])
    if least is None:
        least = least_change(noises, rows.iloc[-1], figure)
    edges = [0, *_changes(points, logs, by, math.log1p(least)), len(points)]
    for before, here, after in zip(edges, edges[1:], edges[2:], strict=False):
        ratio = math.exp(float(np.median(logs[here:after]) - np.median(logs[before:here])))
        points[here] = replace(points[here], change=ratio)
    return History(case_id, rows["device_name"].iloc[-1], machine_id, figure, by, points, 100 * least)


def least_change(noises: Noises, row: pd.Series, figure: str) -> float:
    """Return the smallest relative change of level that counts by default.

    Twice the noise of a process, as calibrated or else assumed; of memory, which is deterministic, 0.5 %.
    """
    if figure in _EXACT:
        return MEMORY_LIMIT - 1
    noise = noises.of(row["machine_id"], row["case_id"], row["gpu_uuid"])
    if noise is None:
        times = [row[name] for name in ("median_ms", "mean_ms") if row[name] > 0]
        noise = assumed(row["device"], math.log(times[0] if times else 1.0))
    return 2 * noise.run


def _changes(points: Sequence[Point], logs: Floats, by: By, least: float) -> list[int]:
    """Return the first point of each new level.

    Points of one day share its level: of several days each counts once, and a change is at its first point.
    """
    days = [point.time_utc[:10] for point in points]
    begins = [index for index, day in enumerate(days) if index == 0 or day != days[index - 1]]
    if by == "run" or len(begins) == 1:
        return change_points(logs, least)
    levels = np.array([np.median(part) for part in np.split(logs, begins[1:])])
    return [begins[index] for index in change_points(levels, least)]


def _with_figure(rows: pd.DataFrame, figure: str) -> pd.DataFrame:
    """Return the rows that have the figure. Times of `lbench energy` are of warm caches, and others."""
    return rows[(rows[figure].fillna(0) != 0) & (rows["metric"] != "energy")]


def _point(rows: pd.DataFrame, figure: str, by: By) -> Point:
    values = rows[figure]
    first, last = rows.iloc[0], rows.iloc[-1]
    low, high = float(values.min()), float(values.max())
    if figure == "median_ms" and len(rows) == 1 and first["ci_low_ms"] > 0 and first["ci_high_ms"] > 0:
        low, high = float(first["ci_low_ms"]), float(first["ci_high_ms"])
    labels: dict[By, str] = {
        "commit": first["harness_commit"] or "unknown",
        "day": first["time_utc"][:10],
        "run": first["time_utc"],
    }
    label = labels[by]
    return Point(
        label, first["time_utc"], float(values.median()), low, high, len(rows), last["provider_version"]
    )


def plot_history(history: History) -> Figure:
    """Draw the figure over its points with its range, the median of each level, and every change."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(8, 4), layout="constrained")
    axes = picture.subplots()
    places = list(range(len(history.points)))
    values = [point.figure for point in history.points]
    spread = [
        [point.figure - point.low for point in history.points],
        [point.high - point.figure for point in history.points],
    ]
    axes.errorbar(places, values, yerr=np.maximum(spread, 0), fmt="o", color="#0072b2", ecolor="#9ecae1")
    edges = [0, *(i for i, point in enumerate(history.points) if point.change is not None), len(places)]
    for begin, end in pairwise(edges):
        level = float(np.median(values[begin:end]))
        axes.hlines(level, begin - 0.4, end - 0.6, color="#444444", linewidth=1)
    for index in edges[1:-1]:
        change = history.points[index].change or 1.0
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
    labels = [point.label[:10] for point in history.points]
    axes.set_xticks(places[::step], labels[::step], rotation=30, ha="right")
    axes.set_ylabel(
        history.figure.replace("_", ", ", 1) if history.figure.endswith(("_ms", "_mib")) else history.figure
    )
    axes.set_title(f"{history.case_id}\n{history.device_name}", fontsize=10)
    axes.margins(y=0.15)
    return picture
