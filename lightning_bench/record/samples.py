"""The samples behind rows: what a sweep kept in ``NAME.samples.jsonl`` beside its CSV."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning_bench.record import SAMPLES_KEY
from lightning_bench.report.collect import Row

TIMES = ("samples_ms", "call_ms", "graph_ms")
"""Lists of times that a line may have, ms: cold samples, what an eager caller waits, CUDA-graph replays."""

_READINGS = ("sm_clock_mhz", "power_w")

Samples = dict[str, list[float]]


def read_samples(rows: Iterable[Row]) -> tuple[dict[Row, Samples], list[str]]:
    """The samples of each row that has some, and a sentence for each line that could not be read.

    Of a case that was measured twice the last line counts, as its row does. Beside ``TIMES`` there are
    ``sm_clock_mhz`` and ``power_w``, read between the samples.
    """
    by_source: dict[str, list[Row]] = {}
    for row in rows:
        by_source.setdefault(row.source, []).append(row)
    found: dict[Row, Samples] = {}
    said: list[str] = []
    for source, members in by_source.items():
        path = Path(source).with_suffix(".samples.jsonl")
        if path.is_file():
            lines = _lines(path, said)
            found |= {row: lines[key] for row in members if (key := _key(vars(row.record))) in lines}
    return found, said


def _lines(path: Path, said: list[str]) -> dict[tuple[Any, ...], Samples]:
    lines: dict[tuple[Any, ...], Samples] = {}
    shown = path.as_posix()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        said.append(f"{shown} cannot be read ({error}): its cells have no samples in the page")
        return lines
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            lines[_key(entry)] = _of_line(entry)
        except (ValueError, TypeError, KeyError, AttributeError):
            said.append(f"{shown}, line {number}: no samples of lbench")
    return lines


def _key(entry: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(entry[name] for name in SAMPLES_KEY)


def _of_line(entry: dict[str, Any]) -> Samples:
    samples = {name: [float(x) for x in entry[name] if x is not None] for name in TIMES if name in entry}
    readings = entry.get("clocks", [])
    for name in _READINGS:
        samples[name] = [float(each[name]) for each in readings if each.get(name) is not None]
    return {name: values for name, values in samples.items() if values}
