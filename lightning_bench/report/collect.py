"""From paths to tables of rows: which CSVs are ours, the latest row of each case, and who shares a table."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path

from lightning_bench.errors import UsageError
from lightning_bench.record import Record, read_records

# What `--fresh` sets aside: NAME.20261121T072500123456Z.csv.
_SET_ASIDE = re.compile(r"\.\d{8}T\d{6,}Z\.csv$")
_REQUIRED = {field.name for field in fields(Record) if field.default is MISSING}
_PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Row:
    """A record and the name of the CSV that it came from."""

    record: Record
    source: str


@dataclass(frozen=True)
class Collected:
    """The latest row of every case, and ``skipped``: a sentence for each CSV that a folder had in vain."""

    rows: list[Row]
    skipped: list[str]


@dataclass(frozen=True)
class Group:
    """Rows of one table: they differ in seq_len and provider, and with ``mixed`` in machine and protocol."""

    rows: list[Row]
    mixed: bool = False


def collect(paths: Sequence[str | Path]) -> Collected:
    """Read files and folders, the latter with all below them, each file once.

    A folder's files that a script wrote or that ``--fresh`` set aside are left out; a file that is named
    must be ours. Raises UsageError for one that is not, for a row that cannot be parsed, and where no row is.
    """
    rows: list[Row] = []
    skipped: list[str] = []
    seen: set[Path] = set()
    for path in map(Path, paths):
        if path.is_dir():
            found = _of_folder(path, skipped)
        elif path.exists():
            found = [path]
        else:
            raise UsageError(f"{path}: there is no such file or folder; give a CSV that lbench wrote")
        for file in found:
            if file.resolve() in seen:
                continue
            seen.add(file.resolve())
            records = read_records(file)
            if not records and not path.is_dir():
                raise UsageError(f"{file} has a header and no rows: no case of its sweep has ended yet")
            rows += (Row(record, _shown(file)) for record in records)
    if not rows:
        names = ", ".join(map(str, paths))
        why = f" ({'; '.join(skipped)})" if skipped else ""
        raise UsageError(f"no rows of lbench in {names}{why}; run `lbench speed` first, or name its CSV")
    return Collected(latest_rows(rows), skipped)


def published_folder() -> Path:
    """Where the published tables lie: in a wheel in the package, in a checkout in results/."""
    packaged = _PACKAGE / "published"
    return packaged if packaged.is_dir() else _PACKAGE.parent / "results" / "published"


def latest_rows(rows: Iterable[Row]) -> list[Row]:
    """Keep the last row by time of each case of a suite, metric, protocol and machine.

    In order of first appearance, so that columns stay where a sweep put them.
    """
    kept: dict[tuple[str, ...], Row] = {}
    for row in rows:
        r = row.record
        key = (r.suite, r.metric, r.protocol, r.machine_id, r.case_id)
        if key not in kept or kept[key].record.time_utc <= r.time_utc:
            kept[key] = row
    return list(kept.values())


def group(rows: Iterable[Row], *, mix: bool = False) -> list[Group]:
    """Tables in order of appearance; ``mix`` lets suites, machines and protocols of one shape share one."""
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        r = row.record
        origin = () if mix else (r.suite, r.protocol, r.machine_id)
        shape = (r.metric, r.device, r.direction, r.dtype, r.batch, r.heads, r.head_dim, r.value_dim)
        groups.setdefault((origin, shape), []).append(row)
    return [Group(members, mixed=len(_origins(members)) > 1) for members in groups.values()]


def _origins(rows: Iterable[Row]) -> set[tuple[str, ...]]:
    return {(row.record.suite, row.record.protocol, row.record.machine_id) for row in rows}


def _of_folder(folder: Path, skipped: list[str]) -> list[Path]:
    found = []
    for path in sorted(folder.rglob("*.csv")):
        if not path.is_file() or _SET_ASIDE.search(path.name):
            continue
        if why := _why_not_ours(path):
            skipped.append(f"{_shown(path)} {why}")
        else:
            found.append(path)
    return found


def _why_not_ours(path: Path) -> str:
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            header = next(csv.reader([file.readline()]), [])
    except (OSError, csv.Error) as error:
        return f"cannot be read ({error})"
    if not header:
        return "is empty"
    return "" if set(header) >= _REQUIRED else "is not a CSV that lbench wrote"


def _shown(path: Path) -> str:
    """The path as people in this folder would type it, with / everywhere."""
    full = Path(os.path.abspath(path))
    here = Path.cwd()
    return (full.relative_to(here) if full.is_relative_to(here) else full).as_posix()
