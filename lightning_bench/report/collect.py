"""From paths to tables of rows: which CSVs are ours, the latest row of each case, and who shares a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_bench.errors import UsageError
from lightning_bench.record import Row, latest_by, read_rows, suite_case_key

_PACKAGE = Path(__file__).resolve().parents[1]


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
    found = read_rows(paths)
    if found.without_rows:
        raise UsageError(
            f"{found.without_rows[0]} has a header and no rows: no case of its sweep has ended yet"
        )
    if not found.rows:
        names = ", ".join(map(str, paths))
        why = f" ({'; '.join(found.skipped)})" if found.skipped else ""
        raise UsageError(f"no rows of lbench in {names}{why}; run `lbench speed` first, or name its CSV")
    return Collected(latest_rows(found.rows), found.skipped)


def published_folder() -> Path:
    """Where the published tables lie: in a wheel in the package, in a checkout in results/."""
    packaged = _PACKAGE / "published"
    return packaged if packaged.is_dir() else _PACKAGE.parent / "results" / "published"


def latest_rows(rows: Iterable[Row]) -> list[Row]:
    """Keep the last row by time of each case of a suite, metric, protocol and machine.

    In order of first appearance, so that columns stay where a sweep put them.
    """
    return list(latest_by(rows, suite_case_key).values())


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
