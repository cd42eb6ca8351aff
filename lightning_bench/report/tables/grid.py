"""Grids: tables of cells that every format prints, a row per sequence length, a column per provider."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from lightning_bench.record import Record, Row, Status
from lightning_bench.report.collect import Group
from lightning_bench.report.tables.kinds import Kind, default_kinds
from lightning_bench.report.tables.origin import named, origin_lines
from lightning_bench.report.tables.paper_tables import Table, short, status_notes, title

DEFAULT_BASELINE = "flash2"
"""What the papers hold their kernels against."""


@dataclass(frozen=True)
class Cell:
    """What stands at one length and provider: ``text``, which says why where there is no ``value``."""

    text: str
    value: float | None = None
    best: bool = False
    row: Row | None = None


@dataclass(frozen=True)
class Column:
    """A provider; ``over`` says what sets the column apart from others of that provider."""

    provider: str
    family: str
    over: str = ""


@dataclass(frozen=True)
class Grid:
    """One table. ``cells[row][column]``; ``notes`` explain cells, ``origin`` says where they are from."""

    title: str
    kind: str
    unit: str
    columns: list[Column]
    lengths: list[int]
    cells: list[list[Cell]]
    notes: list[str]
    origin: list[str]


@dataclass(frozen=True)
class _Member:
    """A column before it is one of a kind: its rows by length."""

    column: Column
    origin: tuple[str, ...]
    rows: dict[int, Row]

    @property
    def records(self) -> dict[int, Record]:
        return {n: row.record for n, row in self.rows.items()}

    @property
    def absent(self) -> bool:
        return all(r.status in ("unavailable", "unsupported") for r in self.records.values())


def grids(
    groups: Iterable[Group], kinds: Sequence[Kind] | None = None, baseline: str | None = None
) -> list[Grid]:
    """The tables of each group: of the given kinds, or of all that its metric can fill.

    A table of a figure that no row has (TFLOP/s under protocol paper, say) is left out, and so is a
    speedup table where ``baseline`` (``DEFAULT_BASELINE`` where none is given) is no column.
    """
    made = []
    for group in groups:
        first = group.rows[0].record
        for kind in kinds or default_kinds(first):
            if kind.metric == first.metric:
                grid = _grid(group, kind, baseline or DEFAULT_BASELINE)
                if grid is not None:
                    made.append(grid)
    return made


def as_table(grid: Grid) -> Table:
    """The grid as the terminal's table."""
    return Table(
        title=grid.title,
        unit=grid.unit,
        columns=[column.provider for column in grid.columns],
        families=[column.over or column.family for column in grid.columns],
        rows=grid.lengths,
        cells=[[cell.text for cell in line] for line in grid.cells],
        notes=[*grid.notes, *grid.origin],
    )


def why_no_figure(status: Status) -> str:
    """What stands in a cell whose row has no figure."""
    return {"oom": "OOM", "ok": "no figure", "unstable": "no figure"}.get(status, status)


def with_best(cells: list[Cell], best: str) -> list[Cell]:
    """Mark the best of a line's values, and those that print alike, where there are two to choose from."""
    values = [cell.value for cell in cells if cell.value is not None]
    if len(values) < 2:
        return cells
    value = min(values) if best == "low" else max(values)
    text = next(cell.text for cell in cells if cell.value == value).rstrip("*")
    return [replace(c, best=c.value is not None and c.text.rstrip("*") == text) for c in cells]


def _grid(group: Group, kind: Kind, baseline: str) -> Grid | None:
    members = _members(group)
    shown = [member for member in members if not member.absent]
    if kind.name == "speedup" and not any(member.column.provider == baseline for member in shown):
        return None
    lengths = sorted({row.record.seq_len for row in group.rows})
    over = {member.origin: _rows_of(shown, member.origin, baseline) for member in shown}
    cells = [
        with_best([_cell(kind, m.rows.get(n), over[m.origin].get(n)) for m in shown], kind.best)
        for n in lengths
    ]
    if kind.name not in ("ms", "memory", "check") and not any(c.value for line in cells for c in line):
        return None
    name, first = title(group.rows[0].record), group.rows[0].record
    if group.mixed:
        name = f"mixed{name.removeprefix(first.suite)}"
    return Grid(
        title=name,
        kind=kind.name,
        unit=_unit(group, kind, baseline),
        columns=[member.column for member in shown],
        lengths=lengths,
        cells=cells,
        notes=_notes(group, kind, members, baseline),
        origin=origin_lines(group.rows),
    )


def _members(group: Group) -> list[_Member]:
    columns: dict[tuple[str, tuple[str, ...]], dict[int, Row]] = {}
    for row in group.rows:
        r = row.record
        origin = (r.suite, r.protocol, r.machine_id) if group.mixed else ()
        columns.setdefault((r.provider, origin), {})[r.seq_len] = row
    over = _apart(group.rows) if group.mixed else {}
    return [
        _Member(Column(provider, next(iter(rows.values())).record.family, over.get(origin, "")), origin, rows)
        for (provider, origin), rows in columns.items()
    ]


def _apart(rows: Iterable[Row]) -> dict[tuple[str, ...], str]:
    """What to call each suite, protocol and machine in a mixed table: no more than tells them apart."""
    records = {(r.suite, r.protocol, r.machine_id): r for r in (row.record for row in rows)}
    machines = {r.machine_id: r.device_name or r.machine_id for r in records.values()}
    doubled = len(set(machines.values())) < len(machines)
    parts: list[Callable[[Record], str]] = [
        lambda r: r.suite,
        lambda r: r.protocol,
        lambda r: f"{machines[r.machine_id]}{f' [{r.machine_id}]' if doubled else ''}",
    ]
    telling = [part for part in parts if len({part(r) for r in records.values()}) > 1]
    return {origin: ", ".join(part(r) for part in telling) for origin, r in records.items()}


def _rows_of(members: Iterable[_Member], origin: tuple[str, ...], provider: str) -> dict[int, Row]:
    return next((m.rows for m in members if m.origin == origin and m.column.provider == provider), {})


def _cell(kind: Kind, row: Row | None, over: Row | None) -> Cell:
    if row is None:
        return Cell("not run")
    record = row.record
    value = kind.value(record) if record.status in ("ok", "unstable") else None
    if value is None:
        return Cell(why_no_figure(record.status), row=row)
    star = "*" if record.status == "unstable" else ""
    if kind.name == "speedup":
        base = kind.value(over.record) if over and over.record.status in ("ok", "unstable") else None
        if base is None:
            return Cell("no baseline", row=row)
        value = base / value if value else None
        star = "*" if star or (over and over.record.status == "unstable") else ""
        if value is None:
            return Cell("no figure", row=row)
    return Cell(kind.text(record, value) + star, value, row=row)


def _unit(group: Group, kind: Kind, baseline: str) -> str:
    if kind.name == "speedup":
        return f"speedup: the time of {baseline} over the provider's"
    units = dict.fromkeys(kind.unit(row.record) for row in group.rows)
    return "; or ".join(units)


def _notes(group: Group, kind: Kind, members: list[_Member], baseline: str) -> list[str]:
    notes = []
    if group.mixed:
        notes.append(
            "Columns of different suites, machines or protocols stand side by side, as --mix asked: "
            "their figures were not taken alike."
        )
    if kind.name == "speedup":
        notes += _mechanisms([m.column for m in members if not m.absent], baseline)
    for member in members:
        name, records = named(member.column.provider, member.column.over), member.records
        if member.absent:
            row = next(iter(records.values()))
            notes.append(f"{name}: {row.status}: {short(row.reason)}")
            continue
        notes += status_notes(name, records)
        if bare := [n for n, r in sorted(records.items()) if r.status == "ok" and kind.value(r) is None]:
            notes.append(f"{name}: ok at n = {', '.join(map(str, bare))}, but its row lacks this figure")
    return notes


def _mechanisms(columns: Sequence[Column], baseline: str) -> list[str]:
    family = next(column.family for column in columns if column.provider == baseline)
    others = dict.fromkeys(column.provider for column in columns if column.family != family)
    if not others:
        return []
    return [
        f"{', '.join(others)}: of another family than {baseline} ({family}); "
        "such a speedup compares mechanisms, not implementations."
    ]
