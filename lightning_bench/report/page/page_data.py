"""What the page holds: tables that switch between kinds, the cases behind their cells, the origin."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pandas as pd

from lightning_bench.record import COLUMNS, Record, Row
from lightning_bench.record.samples import Samples
from lightning_bench.report.collect import frame_of, rows_in
from lightning_bench.report.plots.strokes import strokes
from lightning_bench.report.tables.grid import Grid
from lightning_bench.report.tables.origin import VERSIONS, distinct

KIND_LABELS = {
    "ms": "ms",
    "speedup": "speedup",
    "tflops": "TFLOP/s",
    "gbps": "GB/s",
    "floor": "× floor",
    "per_token": "ns per token",
    "tokens": "tokens/s",
    "memory": "MiB",
    "check": "error",
    "against": "against published",
}


@dataclass(frozen=True)
class Section:
    """One table and the kinds that it can be switched to; `cases` index the page's rows, -1 for none."""

    name: str
    title: str
    under: str
    words: str
    grids: list[Grid]
    cases: list[list[int]]

    @property
    def first(self) -> Grid:
        """The kind that is shown before anybody switches."""
        return self.grids[0]

    @property
    def plotted(self) -> bool:
        """Whether there is a line to draw: figures at two lengths."""
        lines = self.first.cells if self.first.kind != "against" else []
        return sum(any(cell.value is not None for cell in line) for line in lines) > 1


def sections_of(grids: Iterable[Grid]) -> tuple[list[Section], pd.DataFrame]:
    """Return grids of one group together, and a frame of the rows that their cells show."""
    index: dict[int, int] = {}
    rows: list[Row] = []
    sections = []

    def number(row: Row | None) -> int:
        if row is None:
            return -1
        if id(row) not in index:
            index[id(row)] = len(rows)
            rows.append(row)
        return index[id(row)]

    groups = groupby(grids, lambda grid: (grid.title, grid.origin, grid.columns, grid.lengths))
    for at, (_, members) in enumerate(groups):
        kinds = list(members)
        first = kinds[0]
        records = [cell.row.record for line in first.cells for cell in line if cell.row]
        sections.append(
            Section(
                name=f"table-{at}",
                title=first.title,
                under=_under(records, first.kind),
                words=_words(first, records),
                grids=kinds,
                cases=[[number(cell.row) for cell in line] for line in first.cells],
            )
        )
    return sections, frame_of(rows)


def page_data(
    sections: Sequence[Section], shown: pd.DataFrame, samples: dict[Row, Samples]
) -> dict[str, Any]:
    """Return all that the page's script reads, as JSON can hold it."""
    return {
        "meanings": COLUMNS,
        "kinds": KIND_LABELS,
        "sections": [_section(section) for section in sections],
        "cases": {"count": len(shown), "columns": _columns(shown)},
        "samples": {str(at): samples[row] for at, row in enumerate(rows_in(shown)) if row in samples},
        "strokes": _strokes(shown),
    }


def machines(rows: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Return head and lines of the table of machines: one for each fingerprint and protocol."""
    head = ["device", "capability", *VERSIONS, "lightning-bench", "protocol", "machine"]
    lines = [
        [
            distinct(members["device_name"]) or "not recorded",
            distinct(members["capability"]),
            *(distinct(members[column]) for column in VERSIONS.values()),
            distinct(_harness(row.record) for row in rows_in(members)) or "not by lightning-bench",
            str(members["protocol"].iloc[0]),
            str(members["machine_id"].iloc[0]),
        ]
        for _, members in rows.groupby(["machine_id", "protocol"], sort=False)
    ]
    return head, lines


def providers(rows: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Return head and lines of the table of providers."""
    columns = ["label", "family", "provider_version", "status"]
    lines = [
        [str(name), *(distinct(members[column]) for column in columns)]
        for name, members in rows.groupby("provider", sort=False)
    ]
    return ["provider", "label", "family", "version", "how its cases ended"], lines


def sources(rows: pd.DataFrame, samples: dict[Row, Samples]) -> tuple[list[str], list[list[str]]]:
    """Return head and lines of the table of files: what each holds, and how many rows have samples."""
    lines = [
        [
            str(source),
            *(distinct(members[column]) for column in ("suite", "metric", "protocol")),
            str(len(members)),
            str(sum(row in samples for row in rows_in(members))),
            _times(members["time_utc"]),
        ]
        for source, members in rows.groupby("source", sort=False)
    ]
    return ["file", "suite", "metric", "protocol", "rows shown", "with samples", "measured (UTC)"], lines


def _under(records: Sequence[Record], kind: str) -> str:
    """Return device and protocol; of published rows beside measured ones, those of the measured."""
    if kind == "against":
        here = [r for r in records if r.harness_version]
        return f"here: {_under(here, '')}" if here else "not measured here"
    parts = (
        distinct(r.device_name for r in records),
        " and ".join(dict.fromkeys(f"protocol {r.protocol}" for r in records)),
    )
    return ", ".join(part for part in parts if part)


def _words(grid: Grid, records: Sequence[Record]) -> str:
    """Return what a filter finds the table by, in lower case."""
    found = [grid.title, *(part for r in records for part in (r.status, r.protocol, r.device_name, r.family))]
    found += (f"{column.provider} {column.over}" for column in grid.columns)
    found += (f"head_dim {r.head_dim} batch {r.batch} heads {r.heads}" for r in records[:1])
    return " ".join(dict.fromkeys(found)).lower()


def _section(section: Section) -> dict[str, Any]:
    first = section.first
    return {
        "lengths": first.lengths,
        "columns": [[column.provider, column.over] for column in first.columns],
        "cases": [at for line in section.cases for at in line],
        "plotted": section.plotted,
        "kinds": {grid.kind: _kind(grid) for grid in section.grids},
    }


def _kind(grid: Grid) -> dict[str, Any]:
    cells = [cell for line in grid.cells for cell in line]
    return {
        "unit": grid.unit,
        "notes": grid.notes,
        "text": [cell.text for cell in cells],
        "value": [None if cell.value is None else float(f"{cell.value:.7g}") for cell in cells],
        "best": [at for at, cell in enumerate(cells) if cell.best],
    }


def _columns(rows: pd.DataFrame) -> dict[str, Any]:
    """Return the columns that are not blank: one value for all, a list, or texts and their indices."""
    found: dict[str, Any] = {}
    for name in (*COLUMNS, "source"):
        values = _plain(rows[name])
        kinds = list(dict.fromkeys(values))
        if kinds in ([], [""], [None]):
            continue
        if len(kinds) == 1:
            found[name] = {"all": kinds[0]}
        elif any(isinstance(value, str) for value in kinds):
            at = {value: index for index, value in enumerate(kinds)}
            found[name] = {"texts": kinds, "at": [at[value] for value in values]}
        else:
            found[name] = {"each": values}
    return found


def _plain(column: pd.Series[Any]) -> list[Any]:
    """Return the values as JSON has them: None for a blank figure."""
    return column.astype(object).where(column.notna(), None).tolist()


def _strokes(rows: pd.DataFrame) -> dict[str, dict[str, Any]]:
    families = dict(zip(rows["provider"], rows["family"], strict=True))
    return {
        name: {
            "color": stroke.color,
            "marker": stroke.marker,
            "dashes": [] if isinstance(stroke.dashes, str) else stroke.dashes[1],
            "hollow": stroke.hollow,
        }
        for name, stroke in strokes(families).items()
    }


def _harness(r: Record) -> str:
    return f"{r.harness_version}{f' at {r.harness_commit}' if r.harness_commit else ''}"


def _times(times: Iterable[str]) -> str:
    known = sorted(time[:16].replace("T", " ") for time in times if time)
    if not known:
        return ""
    return known[0] if known[0] == known[-1] else f"{known[0]} to {known[-1]}"
