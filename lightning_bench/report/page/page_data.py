"""What the page's script reads: views, the cases behind their cells, samples, strokes; and the origin."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from lightning_bench.record import COLUMNS, Record, Row
from lightning_bench.record.samples import Samples
from lightning_bench.report.collect import rows_in
from lightning_bench.report.page.plot_choices import hero, plot_choices
from lightning_bench.report.page.views import Kind, Line, View, field_text
from lightning_bench.report.plots.strokes import strokes
from lightning_bench.report.tables.kinds import KINDS
from lightning_bench.report.tables.origin import VERSIONS, distinct

AXIS_NAMES = {
    "device": "device",
    "dtype": "dtype",
    "model": "model",
    "step_tokens": "tokens per step",
    "compile": "compiled",
    "recompute": "recomputed",
    "new_tokens": "new tokens",
    "parallel": "parallel",
    "ranks": "ranks",
    "batch": "batch",
    "heads": "heads",
    "head_dim": "head dim",
    "value_dim": "value dim",
    "kv_heads": "kv heads",
    "layer": "layer",
    "rank": "rank",
    "packing": "documents",
    "seq_len": "n",
}
"""What the first columns of a table are called."""

KIND_LABELS = {kind.name: kind.label for kind in KINDS.values()} | {"against": "against published"}


def page_data(views: Sequence[View], shown: pd.DataFrame, samples: dict[Row, Samples]) -> dict[str, Any]:
    """Return all that the page's script reads, as JSON can hold it."""
    top = hero(views)
    return {
        "meanings": COLUMNS,
        "kinds": KIND_LABELS,
        "higher": [kind.name for kind in KINDS.values() if kind.best == "high"],
        "axes": AXIS_NAMES,
        "hero": [views.index(top[0]), plot_choices(top[0]).index(top[1])] if top else None,
        "sections": [_section(view) for view in views],
        "cases": {"count": len(shown), "columns": _columns(shown)},
        "samples": {str(at): samples[row] for at, row in enumerate(rows_in(shown)) if row in samples},
        "strokes": _strokes(shown),
    }


def axis_texts(view: View, line: Line) -> list[str]:
    """Return what the table has of a line in its first columns, one text per axis."""
    return [field_text(line.shape, axis) for axis in view.axes]


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


def _section(view: View) -> dict[str, Any]:
    return {
        "name": view.name,
        "suite": view.suite,
        "machine": view.records[0].machine_id,
        "axes": view.axes,
        "lines": [
            {
                "key": line.key,
                "n": line.shape["seq_len"],
                "batch": line.shape["batch"],
                "values": [line.shape[axis] for axis in view.axes],
                "texts": axis_texts(view, line),
            }
            for line in view.lines
        ],
        "columns": [[column.provider, column.over, column.family] for column in view.columns],
        "keys": view.column_keys,
        "cases": [at for line in view.cases for at in line],
        "transposed": view.transposed,
        "choices": [asdict(choice) for choice in plot_choices(view)],
        "kinds": {name: _kind(kind) for name, kind in view.kinds.items()},
    }


def _kind(kind: Kind) -> dict[str, Any]:
    cells = [cell for line in kind.cells for cell in line]
    return {
        "unit": kind.unit,
        "notes": kind.notes,
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
