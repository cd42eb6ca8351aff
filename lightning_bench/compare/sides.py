"""One side of a comparison: its rows, and beside each what its samples say of the process that took them."""

from __future__ import annotations

import gc
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from lightning_bench.errors import UsageError
from lightning_bench.record import Record, read_records

_SET_ASIDE = re.compile(r"\.\d{8}T\d{6,}Z\.csv$")  # what `--fresh` leaves
_BATCHES = 10
# How speed.py sizes a turn; for files that do not say how their samples were taken.
_SLOT_MS, _SLOT_SAMPLES = 20.0, 5
_SAME_MEDIAN = 1e-4
_WIDTH_95 = 2 * 1.959964

Key = tuple[str, str, str, str, str]


@dataclass(frozen=True)
class Run:
    """A row and the block of samples that one process gave it.

    ``log_ms`` is the log of the figure, None where the row has none; ``variance`` is that of ``log_ms``
    within the process, with ``df`` degrees of freedom; ``pair`` names the pass in which both sides were
    measured side by side, "" where there was none; ``calibrated_as`` the case whose calibration holds for
    it, where the record goes by another name, else "".
    """

    record: Record
    source: Path
    log_ms: float | None = None
    variance: float = 0.0
    df: float = 0.0
    pair: str = ""
    calibrated_as: str = ""


@dataclass(frozen=True)
class Side:
    """All runs of one side in the order of the files, and what is to be said of how they were read."""

    name: str
    runs: list[Run]
    said: list[str]


@dataclass(frozen=True)
class _Line:
    """A line of samples: median in ms, variance of its log over batches of turns, degrees of freedom."""

    median_ms: float
    variance: float
    df: float
    pair: str


def read_side(path: Path) -> Side:
    """The rows of a CSV, or of every CSV in a folder, each of which then is a run of its own.

    Raises UsageError where there is no such path and where a file that is named cannot be read. A file
    without rows is an empty side.
    """
    if not path.exists():
        raise UsageError(f"{path}: there is no such file or folder; give a CSV that lbench wrote")
    said: list[str] = []
    runs: list[Run] = []
    with _collector_paused():
        for file in _files(path):
            if file.stat().st_size == 0:
                said.append(f"{file} is empty")
                continue
            runs += _read(file, said)
    return Side(str(path), runs, said)


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Rows are made to stay: looking for cycles among them takes a third of the time of 20,000."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if enabled:
            gc.enable()


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return [file for file in sorted(path.rglob("*.csv")) if not _SET_ASIDE.search(file.name) and _ours(file)]


def _ours(file: Path) -> bool:
    """Whether a CSV of a folder has rows of sweeps; scripts and calibrations write others."""
    with file.open("rb") as opened:
        head = opened.readline()
    return b"case_id" in head and b"protocol" in head and b"status" in head


def _read(file: Path, said: list[str]) -> list[Run]:
    records = read_records(file)
    samples_path = file.with_suffix(".samples.jsonl")
    lines = _lines(samples_path) if samples_path.exists() else {}
    runs = []
    lacking = 0
    for record in records:
        figure = record.median_ms if record.median_ms is not None else record.mean_ms
        if record.metric != "speed" or not figure or figure <= 0:
            runs.append(Run(record, file))
            continue
        line = _take(lines.get(record.key, []), figure)
        if line is None:
            lacking += 1
            variance, df = _of_interval(record)
            runs.append(Run(record, file, math.log(figure), variance, df))
        else:
            within = (line.variance, line.df)
            if record.status == "unstable":  # a few batches may agree by chance
                within = max(within, _of_interval(record))
            runs.append(Run(record, file, math.log(figure), *within, line.pair))
    if lacking:
        said.append(
            f"{file}: {lacking} of {len(records)} rows lack their samples in {samples_path.name}: "
            "their intervals stand in for them"
        )
    return runs


def _take(lines: list[_Line], figure: float) -> _Line | None:
    """Remove and return the first line whose median is the row's; a torn sweep leaves lines without rows."""
    for index, line in enumerate(lines):
        if abs(line.median_ms - figure) <= _SAME_MEDIAN * figure:
            return lines.pop(index)
    return None


def _of_interval(record: Record) -> tuple[float, float]:
    low, high = record.ci_low_ms, record.ci_high_ms
    if not low or not high or low <= 0:
        return 0.0, 0.0
    return (math.log(high / low) / _WIDTH_95) ** 2, float(max(1, (record.samples or 2) - 1))


def _lines(path: Path) -> dict[Key, list[_Line]]:
    """Every line of a sidecar by the key of its row; lines of one layout are worked out together."""
    keys: list[Key] = []
    pairs: list[str] = []
    layouts: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    samples: list[list[float]] = []
    with path.open("rb") as file:
        for number, text in enumerate(file, start=1):
            try:
                line = json.loads(text)
                times = [float(one) for one in line["samples_ms"] if one and one > 0]
                keys.append(
                    (
                        line["metric"],
                        line["protocol"],
                        line["case_id"],
                        line["provider_version"],
                        line["machine_id"],
                    )
                )
            except (ValueError, KeyError, TypeError) as error:
                if text.endswith(b"\n"):
                    raise UsageError(
                        f"{path}, line {number}: not samples of lbench ({error!r}); mend or remove that line"
                    ) from None
                break  # torn by an interrupted write
            pairs.append(str(line.get("pair", "")))
            layouts[_edges(times, line.get("turns"))].append(len(samples))
            samples.append(times)
    found: defaultdict[Key, list[_Line]] = defaultdict(list)
    made: dict[int, _Line] = {}
    for edges, members in layouts.items():
        if edges[-1] == 0:
            continue
        times_ms = np.array([samples[index] for index in members])
        medians = np.median(times_ms, axis=1)
        variances, df = _batch_variance(times_ms, edges)
        for index, median, variance in zip(members, medians.tolist(), variances.tolist(), strict=True):
            made[index] = _Line(median, variance, df, pairs[index])
    for index, key in enumerate(keys):
        if index in made:
            found[key].append(made[index])
    return found


def _edges(times: Sequence[float], turns: Any) -> tuple[int, ...]:
    """Where the batches of consecutive turns begin and end: at most ten batches, none without a sample."""
    if not times:
        return (0,)
    if not isinstance(turns, list) or sum(turns) != len(times):
        slot = max(1, min(_SLOT_SAMPLES, int(_SLOT_MS / sorted(times)[len(times) // 2])))
        turns = [slot] * (len(times) // slot) + ([len(times) % slot] if len(times) % slot else [])
    ends = [0, *accumulate(turns)]
    count = min(_BATCHES, len(turns))
    return tuple(ends[round(part * len(turns) / count)] for part in range(count + 1))


def _batch_variance(times_ms: Any, edges: tuple[int, ...]) -> tuple[Any, float]:
    """Variance of the log figure by batch means (Law and Kelton), of each row of ``times_ms``."""
    count = len(edges) - 1
    if count < 2:
        return np.zeros(len(times_ms)), 0.0
    batches = [np.median(times_ms[:, a:b], axis=1) for a, b in pairwise(edges)]
    return np.log(np.stack(batches, axis=1)).var(axis=1, ddof=1) / count, count - 1.0
