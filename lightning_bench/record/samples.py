"""Sidecars: the samples behind the rows of a result file, in `NAME.samples.jsonl` beside its CSV."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from lightning_bench.record.codec import LARGEST
from lightning_bench.record.row import KEY, CaseKey, Record, Row

TIMES = ("samples_ms", "call_ms", "graph_ms")
"""Lists of times that a line may have, ms: cold samples, what an eager caller waits, CUDA-graph replays."""

_READINGS = ("sm_clock_mhz", "power_w")
_IDENTITY = ("case_id", "metric", "protocol", "provider_version", "machine_id")  # KEY in the order of a line

_NO_SAMPLES = (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError)

Samples = dict[str, list[float]]


@dataclass(frozen=True)
class SampleLine:
    """What a sweep kept of one measured row; `key` is that of its record.

    `samples` has those of `TIMES` that were taken, ms, and `sm_clock_mhz` and `power_w` as read between
    them. `turns` are the numbers of cold samples taken in one go, None in files that do not record them.
    `pair` names the pass in which two sides were measured side by side, "" if there was none. `process` is
    the number of the process that took them, from 0, if several measured the row.
    """

    key: CaseKey
    samples: Samples
    turns: list[int] | None
    pair: str
    process: int = 0


@dataclass(frozen=True)
class SampleFault:
    """A line that is no samples of lbench; `torn` if an interrupted write left it."""

    number: int
    error: Exception
    torn: bool


@dataclass(frozen=True)
class SampleFile:
    """The lines of a sidecar in order, and those that could not be read."""

    lines: list[SampleLine] = field(default_factory=list)
    faults: list[SampleFault] = field(default_factory=list)


def sidecar_path(path: Path) -> Path:
    """Return where the samples of the rows of the CSV `path` are."""
    return path.with_suffix(".samples.jsonl")


def sample_fields(samples: Mapping[str, object]) -> str:
    """Return samples as fields of a line, "" if there are none: numbers to six digits, arrays as lists.

    Raises ValueError if `samples` names what the record gives.
    """
    if clash := sorted(samples.keys() & set(_IDENTITY)):
        raise ValueError(f"samples may not name {', '.join(clash)}: the record gives it")
    return json.dumps(_short(samples))[1:-1]


def encode_samples(record: Record, *fields: str) -> bytes:
    """Return the line of a record's samples, from texts that `sample_fields` has returned."""
    identity = json.dumps({name: getattr(record, name) for name in _IDENTITY})
    return f"{', '.join([identity[:-1], *filter(None, fields)])}}}\n".encode()


def _short(value: Any) -> Any:
    """Return a value of JSON with floats of six digits; one that is not finite is None, an array a list."""
    if isinstance(value, list | tuple):  # hundreds of floats per line, which are not worth a call each
        return [
            (float(f"{each:.6g}") if math.isfinite(each) else None) if type(each) is float else _short(each)
            for each in value
        ]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _short(each) for name, each in value.items()}
    return value if value is None or isinstance(value, str | int) else _short(value.tolist())


def read_samples(path: Path) -> SampleFile:
    """Return the lines of a sidecar, none if it does not exist. Raises OSError if it cannot be read."""
    found = SampleFile()
    if not path.is_file():
        return found
    with path.open("rb") as file:
        for number, text in enumerate(file, start=1):
            if not text.strip():
                continue
            try:
                found.lines.append(_line(json.loads(text, parse_constant=_refuse)))
            except _NO_SAMPLES as error:
                found.faults.append(SampleFault(number, error, torn=not text.endswith(b"\n")))
    return found


def samples_of(rows: Iterable[Row]) -> tuple[dict[Row, Samples], list[str]]:
    """Return the samples of each row that has some, and a sentence for each line that could not be read.

    Of a case that was measured twice the last line counts, as its row does.
    """
    by_source: dict[str, list[Row]] = {}
    for row in rows:
        by_source.setdefault(row.source, []).append(row)
    found: dict[Row, Samples] = {}
    messages: list[str] = []
    for source, members in by_source.items():
        path = sidecar_path(Path(source))
        try:
            file = read_samples(path)
        except OSError as error:
            messages.append(
                f"{path.as_posix()} cannot be read ({error}): its cells have no samples in the page"
            )
            continue
        messages += (f"{path.as_posix()}, line {fault.number}: no samples of lbench" for fault in file.faults)
        by_key = {line.key: line.samples for line in file.lines}
        found |= {row: by_key[row.record.key] for row in members if row.record.key in by_key}
    return found, messages


def _line(entry: dict[str, Any]) -> SampleLine:
    samples = {name: _numbers(entry[name]) for name in TIMES if name in entry}
    if readings := entry.get("clocks"):
        for name in _READINGS:
            samples[name] = _numbers([each.get(name) for each in readings])
    key = tuple(entry[name] for name in KEY)
    turns, pair, process = entry.get("turns"), entry.get("pair", ""), entry.get("process", 0)
    if not all(isinstance(text, str) for text in (*key, pair)):
        raise TypeError(f"one of {', '.join(KEY)}, pair is no text")
    if type(process) is not int:
        raise TypeError("process is no number")
    if turns is not None and (
        any(type(count) is not int or count < 1 for count in turns)
        or sum(turns) != len(entry.get("samples_ms", ()))
    ):
        raise ValueError("turns do not add up to the samples")
    return SampleLine(
        key=cast(CaseKey, key),
        samples={name: values for name, values in samples.items() if values},
        turns=turns,
        pair=pair,
        process=process,
    )


def _numbers(values: list[Any]) -> list[float]:
    if type(values) is not list:
        raise TypeError("samples are no list")
    if None in values:
        values = [value for value in values if value is not None]
    numbers = list(map(float, values))
    if numbers and not -LARGEST <= min(numbers) <= max(numbers) <= LARGEST:
        raise ValueError("a sample is no figure")
    return numbers


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is no figure")
