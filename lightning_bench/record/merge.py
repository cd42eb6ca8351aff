"""Several result files as one with one row per case, as shards of a sweep write them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_bench.errors import UsageError
from lightning_bench.record.file import ResultFile
from lightning_bench.record.latest import latest
from lightning_bench.record.read import read_records
from lightning_bench.record.row import KEY, Record
from lightning_bench.record.samples import sidecar_path
from lightning_bench.words import counted

_SHARD = re.compile(r"-shard(\d+)of(\d+)$")
_MOST_NAMED = 3


@dataclass(frozen=True)
class MergedRows:
    """The rows of the files in order, and the file that has the samples of each."""

    records: list[Record]
    sources: dict[Record, Path]


def merge_rows(paths: Sequence[Path]) -> MergedRows:
    """Return the latest row of each case of each file, once if several files have the same row.

    Raise UsageError if two files have different rows of a case: one of them would get lost.
    """
    sources: dict[Record, Path] = {}
    owners: dict[tuple[str, str, str], Record] = {}
    conflicts: list[str] = []
    for path in paths:
        for record in latest(read_records(path)):
            case = (record.metric, record.protocol, record.case_id)
            other = owners.setdefault(case, record)
            if other == record or sources[other] == path:
                sources.setdefault(record, path)
            else:
                conflicts.append(f"{record.metric} of {record.case_id} is in {sources[other]} and {path}")
    if conflicts:
        more = len(conflicts) - _MOST_NAMED
        others = f"; and {counted(more, 'more case')}" if more > 0 else ""
        raise UsageError(
            f"different rows of one case: {'; '.join(conflicts[:_MOST_NAMED])}{others}. Leave out one of the "
            "files, or remove the rows that do not count"
        )
    return MergedRows(list(sources), sources)


def write_merged(merged: MergedRows, out: ResultFile) -> None:
    """Append the rows, each with the lines of its samples."""
    samples = {path: _samples(path) for path in dict.fromkeys(merged.sources.values())}
    for record in merged.records:
        for line in samples[merged.sources[record]].get(record.key, ()):
            out.append_samples(record, line)
        out.append(record)
    out.check_unchanged()


def merged_path(paths: Sequence[Path]) -> Path:
    """Return the path of the whole whose shards these files are: their name without `-shardIofN`.

    Raise UsageError if they are not shards of one file.
    """
    wholes = {path.with_stem(_SHARD.sub("", path.stem)) for path in paths}
    if len(wholes) != 1 or not all(_SHARD.search(path.stem) for path in paths):
        raise UsageError("the files are not the shards of one sweep by their names: give --out FILE")
    return wholes.pop()


def missing_shards(paths: Sequence[Path]) -> list[str]:
    """Return the shards, such as `3/4`, that the names of the files tell to be missing.

    None where they are of several counts (`shard_counts`): then the names do not tell.
    """
    counts = shard_counts(paths)
    if len(counts) != 1:
        return []
    (count,) = counts
    given = {int(match[1]) for match in _shards(paths)}
    return [f"{number}/{count}" for number in range(1, count + 1) if number not in given]


def shard_counts(paths: Sequence[Path]) -> list[int]:
    """Return into how many shards sweeps were cut, by the names of the files."""
    return sorted({int(match[2]) for match in _shards(paths)})


def _shards(paths: Sequence[Path]) -> list[re.Match[str]]:
    return [match for path in paths if (match := _SHARD.search(path.stem))]


def _samples(path: Path) -> dict[tuple[str, ...], list[dict[str, Any]]]:
    """Return what each line of the samples beside a result file has, by the key of its row."""
    found: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    sidecar = sidecar_path(path)
    if sidecar.is_file():
        for number, text in enumerate(sidecar.read_bytes().splitlines(keepends=True), start=1):
            try:
                line = json.loads(text)
                key = tuple(line.pop(name) for name in KEY)
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                if text.endswith(b"\n"):
                    raise UsageError(f"{sidecar}, line {number}: no samples of lbench ({error})") from None
                continue  # a sweep that was killed, or still runs, has not written all of it
            found.setdefault(key, []).append(line)
    return found
