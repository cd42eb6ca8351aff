"""Published and measured here, side by side: a cell of the papers' tables, ours, and the ratio."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lightning_bench.record import Record, Row
from lightning_bench.report.collect import Group, group
from lightning_bench.report.tables.grid import Cell, Column, Grid, why_no_figure
from lightning_bench.report.tables.kinds import figure, unit
from lightning_bench.report.tables.origin import origin_lines
from lightning_bench.report.tables.paper_tables import title

# A published column, and the providers here that compute the same: the wrapped library before ours.
_COUNTERPARTS = {
    "lightning2": ("lightning-official", "lightning2"),
    "flash2": ("flash2",),
    "xformers": ("xformers",),
    "retention": ("fla-retention-fused-chunk", "fla-retention-chunk", "fla-fused-chunk", "fla-chunk"),
    "based": ("fla-based-parallel", "fla-based-fused-chunk"),
    "lightning2-no-decay": ("lightning-official-no-decay", "lightning2-no-decay"),
}
# Of this table flash2 has no causal mask.
_WITHOUT_MASK = {("fla-performance", "flash2"): ("flash2-full", "flash2")}
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
    """One table for each published one and each machine and protocol that measured a cell of it here.

    Protocol paper comes first, being like for like. A published table or column that nothing here measures
    stands alone, and a note says so. Rows of whole models (``heads`` is 0) are left out.
    """
    index = _index(measured)
    made = []
    for table in group(row for row in published if row.record.heads):
        wanted = {_key(row.record, name) for row in table.rows for name in _names(row.record)}
        found = [(origin, rows) for origin, rows in index.items() if not wanted.isdisjoint(rows)]
        found.sort(key=lambda one: one[0][0] != "paper")
        made += [_grid(table, rows) for _, rows in found] or [_grid(table, {})]
    return made


def _index(measured: Iterable[Row]) -> dict[tuple[str, str], dict[Key, Row]]:
    """Rows by protocol and machine, then by cell: the last by time, whichever suite asked for it."""
    index: dict[tuple[str, str], dict[Key, Row]] = {}
    for row in measured:
        r = row.record
        rows = index.setdefault((r.protocol, r.machine_id), {})
        key = _key(r, r.provider)
        if key not in rows or rows[key].record.time_utc <= r.time_utc:
            rows[key] = row
    return index


def _names(record: Record) -> Sequence[str]:
    here = _COUNTERPARTS.get(record.provider, ())
    return _WITHOUT_MASK.get((record.suite, record.provider), here)


def _key(r: Record, provider: str) -> Key:
    head_dim = _FEATURE_DIMS.get(provider, r.head_dim)
    shape = (r.device, r.dtype, r.batch, r.heads, r.seq_len, head_dim, r.value_dim)
    return (r.metric, r.direction, shape, provider)


def _value(record: Record) -> float | None:
    if record.status not in ("ok", "unstable"):
        return None
    # The published memory is a peak with the inputs in it, whatever our protocol's own figure is.
    return record.peak_mib if record.metric == "memory" else figure(record)


def _grid(table: Group, here: dict[Key, Row]) -> Grid:
    first = table.rows[0].record
    by_provider: dict[str, dict[int, Row]] = {}
    for row in table.rows:
        by_provider.setdefault(row.record.provider, {})[row.record.seq_len] = row
    lengths = sorted({row.record.seq_len for row in table.rows})
    columns: list[Column] = []
    cells: list[list[Cell]] = [[] for _ in lengths]
    used: list[Row] = []
    missing: list[str] = []
    for provider, rows in by_provider.items():
        record = next(iter(rows.values())).record
        columns.append(Column(provider, record.family, "published"))
        for line, n in zip(cells, lengths, strict=True):
            line.append(_cell(rows.get(n)))
        for name in _names(record):
            ours = {n: here.get(_key(row.record, name)) for n, row in rows.items()}
            matched = [row for row in ours.values() if row is not None]
            if not matched:
                missing.append(name)
                continue
            used += matched
            family = matched[0].record.family
            columns += [Column(name, family, "here"), Column(name, family, "ratio")]
            for line, n in zip(cells, lengths, strict=True):
                line += [_cell(ours.get(n)), _ratio(ours.get(n), rows.get(n))]
    return Grid(
        title=title(first),
        kind="against",
        unit=_unit(first, used),
        columns=columns,
        lengths=lengths,
        cells=cells,
        notes=_notes(table, list(by_provider), used, missing),
        origin=_origin(table.rows, used),
    )


def _cell(row: Row | None) -> Cell:
    if row is None:
        return Cell("not run")
    value = _value(row.record)
    if value is None:
        return Cell(why_no_figure(row.record.status), row=row)
    star = "*" if row.record.status == "unstable" else ""
    return Cell(f"{value:.6f}{star}", value, row=row)


def _ratio(ours: Row | None, theirs: Row | None) -> Cell:
    mine = _value(ours.record) if ours else None
    published = _value(theirs.record) if theirs else None
    if mine is None or not published:
        return Cell("no ratio", row=ours)
    star = "*" if ours and ours.record.status == "unstable" else ""
    return Cell(f"{mine / published:.3f}{star}", mine / published, row=ours)


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
    """Which of our columns beside a figure without the mask have it, and so about half the work."""
    here = {row.record.provider: row.record.family for row in used}
    families = {name: here[name] for name in _names(published) if name in here}
    bare = [name for name, family in families.items() if family == "softmax_full"]
    masked = [name for name in families if name not in bare]
    if not bare:
        return ", measured here with it: about half the work" if masked else ""
    told = f", as {' and '.join(bare)} is here"
    return f"{told}; {' and '.join(masked)} has it: about half the work" if masked else told


def _notes(table: Group, providers: Sequence[str], used: Sequence[Row], missing: Sequence[str]) -> list[str]:
    first = table.rows[0].record
    notes = [_REMARKS[name] for name in providers if name in _REMARKS]
    notes += _alike(table, providers)
    for provider in providers:
        record = next(row.record for row in table.rows if row.record.provider == provider)
        if "no causal mask" in record.provider_config:
            notes.append(f"{provider}: published without the causal mask{_mask_here(record, used)}")
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


def _alike(table: Group, providers: Sequence[str]) -> list[str]:
    """A note where whole columns were published with the same figures: then they measured the same."""
    columns: dict[tuple[float | None, ...], list[str]] = {}
    for provider in providers:
        figures = {r.seq_len: _value(r) for r in (row.record for row in table.rows) if r.provider == provider}
        columns.setdefault(tuple(figures[n] for n in sorted(figures)), []).append(provider)
    return [
        f"{', '.join(names)}: published with the same figure at every length: one ran in all these columns"
        for names in columns.values()
        if len(names) > 1
    ]


def _origin(published: Sequence[Row], used: Sequence[Row]) -> list[str]:
    lines = [f"published: {line}" for line in origin_lines(published)]
    return lines + [f"here: {line}" for line in origin_lines(used)] if used else lines
