"""Published and measured here, side by side: a cell of the papers' tables, ours, and the ratio."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from lightning_bench.record import Record, Row, latest_by
from lightning_bench.report.collect import frame_of, rows_by
from lightning_bench.report.published.counterparts import counterparts
from lightning_bench.report.tables.figures import figure, title, unit
from lightning_bench.report.tables.grid import Grid, GridCell, GridColumn, cell_without_figure
from lightning_bench.report.tables.groups import ColumnRows, RowGroup, group
from lightning_bench.report.tables.origin import origin_lines

# Published as head_dim 128, which is that of the values: q and k have a feature dim of their own.
_FEATURE_DIMS = {"fla-based-parallel": 16, "fla-based-fused-chunk": 16}
_REMARKS = {
    "lightning2": "published lightning2 is the authors' kernel: lightning-official runs it here, "
    "lightning2 is ours",
    "retention": "published retention was fused_chunk_retention: simple GLA with one decay a head computes "
    "the same",
    "based": "based has a feature dim of 16 for q and k, in the published script and here",
}
# The suite that measures what a published one did, by its metric.
_SUITES = {"lightning2": "paper", "lightning2-benchmarks": "paper", "fla-performance": "fla-readme"}

Key = tuple[object, ...]


def against(measured: Iterable[Row], published: Iterable[Row]) -> list[Grid]:
    """Return one table for each published one and each machine and protocol that measured a cell of it here.

    Protocol paper comes first, being like for like. A published table or column that nothing here measures
    has no other beside it, and a note says so. Rows of whole models (`heads` is 0) are left out.
    """
    origins = rows_by(frame_of(measured), ("protocol", "machine_id"))
    here = {
        origin: latest_by(rows, lambda record: _key(record, record.provider))
        for origin, rows in sorted(origins.items(), key=lambda item: item[0][0] != "paper")
    }
    grids = []
    for table in group(row for row in published if row.record.heads):
        wanted = {_key(row.record, name) for row in table.rows for name in counterparts(row.record)}
        found = [rows for rows in here.values() if not wanted.isdisjoint(rows)]
        grids += [_grid(table, rows) for rows in found or [{}]]
    return grids


def _key(r: Record, provider: str) -> Key:
    head_dim = _FEATURE_DIMS.get(provider, r.head_dim)
    shape = (r.device, r.dtype, r.batch, r.heads, r.seq_len, head_dim, r.value_dim, r.shape.variant)
    return (r.metric, r.direction, shape, provider)


def _value(record: Record) -> float | None:
    if not record.worked:
        return None
    # The published memory is a peak with the inputs in it, whatever our protocol's own figure is.
    return record.peak_mib if record.metric == "memory" else figure(record)


def _grid(table: RowGroup, here: Mapping[Key, Row]) -> Grid:
    lines, published = table.lines, table.columns
    columns: list[GridColumn] = []
    cells: list[list[GridCell]] = [[] for _ in lines]
    used: list[Row] = []
    missing: list[str] = []
    for column in published:
        columns.append(GridColumn(column.first.provider, column.first.family, "published"))
        for line, at in zip(cells, lines, strict=True):
            line.append(_cell(column.rows.get(at)))
        for name in counterparts(column.first):
            keys = {at: _key(record, name) for at, record in column.records.items()}
            ours = {at: here[key] for at, key in keys.items() if key in here}
            if not ours:
                missing.append(name)
                continue
            used += ours.values()
            family = next(iter(ours.values())).record.family
            columns += [GridColumn(name, family, "here"), GridColumn(name, family, "ratio")]
            for line, at in zip(cells, lines, strict=True):
                line += [_cell(ours.get(at)), _ratio(ours.get(at), column.rows.get(at))]
    first = published[0].first
    return Grid(
        first=first,
        title=title(first),
        kind="against",
        unit=_unit(first, used),
        columns=columns,
        lines=lines,
        cells=cells,
        notes=_notes(published, used, missing),
        origin=_origin(table, used),
    )


def _cell(row: Row | None) -> GridCell:
    value = _value(row.record) if row else None
    if row is None or value is None:
        return cell_without_figure(row)
    star = "*" if row.record.status == "unstable" else ""
    return GridCell(f"{value:.6f}{star}", value, row=row)


def _ratio(ours: Row | None, theirs: Row | None) -> GridCell:
    mine = _value(ours.record) if ours else None
    published = _value(theirs.record) if theirs else None
    if mine is None or not published:
        return GridCell("no ratio", row=ours)
    star = "*" if ours and ours.record.status == "unstable" else ""
    return GridCell(f"{mine / published:.3f}{star}", mine / published, row=ours)


def _unit(published: Record, used: Sequence[Row]) -> str:
    what = "MiB" if published.metric == "memory" else "ms"
    theirs = unit(published).removeprefix(f"{what}, ")
    if not used:
        return f"{what}, {theirs}"
    if published.metric == "memory":
        mine, less = "peak, inputs included", "less memory here"
    else:
        mine, less = unit(used[0].record).removeprefix(f"{what}, "), "faster here"
    return f"{what}: published ({theirs}), here ({mine}); ratio = here / published, below 1 is {less}"


def _mask_here(published: Record, used: Sequence[Row]) -> str:
    """Return which of our columns beside a figure without the mask have it, and so about half the work."""
    here = {row.record.provider: row.record.family for row in used}
    families = {name: here[name] for name in counterparts(published) if name in here}
    bare = [name for name, family in families.items() if family == "softmax_full"]
    masked = [name for name in families if name not in bare]
    if not bare:
        return ", measured here with it: about half the work" if masked else ""
    without = f", as {' and '.join(bare)} is here"
    return f"{without}; {' and '.join(masked)} has it: about half the work" if masked else without


def _notes(published: Sequence[ColumnRows], used: Sequence[Row], missing: Sequence[str]) -> list[str]:
    first = published[0].first
    names = [column.first.provider for column in published]
    notes = [_REMARKS[name] for name in names if name in _REMARKS]
    notes += _equal_columns(published)
    for name, column in zip(names, published, strict=True):
        if "no causal mask" in column.first.provider_config:
            notes.append(f"{name}: published without the causal mask{_mask_here(column.first, used)}")
    if missing and used:
        notes.append(f"not measured here: {', '.join(dict.fromkeys(missing))}")
    if not used:
        suite = _SUITES.get(first.suite)
        run = f": `lbench {first.metric} {suite}` does" if suite else ""
        return [*notes, f"no row here measures this table{run}"]
    if used[0].record.protocol == "lbench" and first.metric == "speed":
        accumulated = "" if first.direction == "fwd" else ", and no gradient is added up in the timed region"
        notes.append(f"here by protocol lbench, not as the published script timed: cold medians{accumulated}")
    elif used[0].record.protocol == "lbench" and first.direction != "fwd":
        notes.append(
            "here by protocol lbench: the peak of one call; the published mean is of 20 calls, "
            "each but the first with the .grad that earlier ones left"
        )
    if first.metric == "speed":
        devices = [row.device_name or "not stated" for row in (first, used[0].record)]
        notes.append(f"published on: {devices[0]}; here: {devices[1]}; the ratio is one of devices too")
    return notes


def _equal_columns(published: Iterable[ColumnRows]) -> list[str]:
    """Return a note on columns that were published with the same figures: then they measured the same."""
    columns: dict[tuple[float | None, ...], list[str]] = {}
    for column in published:
        figures = tuple(_value(record) for record in column.records.values())
        columns.setdefault(figures, []).append(column.first.provider)
    return [
        f"{', '.join(names)}: published with the same figure at every length: one ran in all these columns"
        for names in columns.values()
        if len(names) > 1
    ]


def _origin(published: RowGroup, used: Sequence[Row]) -> list[str]:
    lines = [f"published: {line}" for line in published.origin]
    return lines + [f"here: {line}" for line in origin_lines(frame_of(used))] if used else lines
