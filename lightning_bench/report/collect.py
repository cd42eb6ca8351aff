"""From paths to rows: the latest row of each case, and frames of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from lightning_bench.errors import UsageError
from lightning_bench.model_run import MODEL_RUN
from lightning_bench.models.model_sizes import MODELS
from lightning_bench.record import Row, latest_by, read_rows, suite_case_key
from lightning_bench.record.frame import to_frame
from lightning_bench.record.function_files import of_several_files, told_apart
from lightning_bench.record.row import VARIANT
from lightning_bench.report.restated import restated
from lightning_bench.words import counted

ORIGIN = ("suite", "protocol", "machine_id")
"""Columns that say who measured a row and how: what a mixed table lets differ."""
DIMS = ("head_dim", "value_dim")
SHAPE = ("metric", "device", "direction", "dtype", "batch", "heads", *DIMS, *VARIANT, *MODEL_RUN, "ranks")
"""Columns that the rows of every table agree in."""

_MOST_PAIRS = 3
_ORDER = {name: place for place, name in enumerate(MODELS)}
_PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Collected:
    """The latest row of every case.

    `skipped` has a sentence for each CSV of a folder that cannot be read, `replaced` one for each two files
    that have rows of the same cases, of which only the later ones are in `rows`.
    """

    rows: list[Row]
    skipped: list[str]
    replaced: list[str]


def collect(paths: Sequence[str | Path]) -> Collected:
    """Return the latest rows of files and folders, the latter with all below them; each file is read once.

    Functions of one name from several files are told apart (`record/function_files.py`).
    Files of a folder that are of another kind or that `--fresh` set aside are left out. Raises UsageError
    for a named file that is not ours, for a row that cannot be parsed, and if there is no row.
    """
    found = read_rows(paths)
    if found.without_rows:
        raise UsageError(
            f"{found.without_rows[0]} has a header and no rows: no case of its sweep has ended yet"
        )
    if not found.rows:
        names = ", ".join(map(str, paths))
        left_out = [*found.skipped, *(f"{path} is not a result file of lbench" for path in found.other)]
        why = f" ({'; '.join(left_out)})" if left_out else ""
        raise UsageError(f"no rows of lbench in {names}{why}; run `lbench speed` first, or name its CSV")
    several = of_several_files(row.record for row in found.rows)
    rows = [Row(told_apart(row.record, several), row.source) for row in found.rows]
    return Collected(latest_rows(rows), found.skipped, _replaced(rows))


def _replaced(rows: Iterable[Row]) -> list[str]:
    """Return which files have rows that a later row of another file replaces."""
    rows = list(rows)
    shown = {key: row.source for key, row in latest_by(rows, suite_case_key).items()}
    own = dict.fromkeys((suite_case_key(row.record), row.source) for row in rows)
    pairs = Counter((source, shown[key]) for key, source in own if source != shown[key])
    sentences = [
        f"{counted(count, 'case')} of one suite and machine: in {before} and in {later}. Shown is the later "
        f"row, of {later}. `lbench compare {before} {later}` compares both."
        for (before, later), count in pairs.items()
    ]
    if len(sentences) > _MOST_PAIRS:
        sentences[_MOST_PAIRS:] = [f"The same holds for {len(sentences) - _MOST_PAIRS} more pairs of files."]
    return sentences


def published_folder() -> Path:
    """Return the folder of the published tables: in the package of a wheel, in results/ of a checkout."""
    packaged = _PACKAGE / "published"
    return packaged if packaged.is_dir() else _PACKAGE.parent / "results" / "published"


def latest_rows(rows: Iterable[Row]) -> list[Row]:
    """Return the last row by time of each case of a suite, metric, protocol and machine.

    They are in order of first appearance, so that columns stay where a sweep put them, and restated. Models
    of one suite are in the order of `MODELS`, in whatever parts they were measured.
    """
    latest = [*latest_by(rows, suite_case_key).values()]
    places: dict[tuple[str, str], list[int]] = {}
    for place, row in enumerate(latest):
        if row.record.model in MODELS:
            places.setdefault((row.record.suite, row.record.metric), []).append(place)
    for own in places.values():
        ordered = sorted((latest[place] for place in own), key=lambda row: _ORDER[row.record.model])
        for place, row in zip(own, ordered, strict=True):
            latest[place] = row
    return [row if (now := restated(row.record)) is row.record else Row(now, row.source) for row in latest]


def frame_of(rows: Iterable[Row]) -> pd.DataFrame:
    """Return the frame of `record.frame.to_frame`, with each `Row` itself in the column `row`."""
    rows = list(rows)
    return to_frame(rows).assign(row=pd.Series(rows, dtype=object))


def rows_in(frame: pd.DataFrame) -> list[Row]:
    """Return the rows of a frame of `frame_of`, in order."""
    return frame["row"].tolist()


def rows_by(frame: pd.DataFrame, columns: Sequence[str]) -> dict[tuple[object, ...], list[Row]]:
    """Return the rows by what they agree in, in order of appearance."""
    groups = frame.groupby(list(columns), sort=False, dropna=False)["row"]
    return {key: members.tolist() for key, members in groups}
