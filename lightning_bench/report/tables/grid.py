"""Grids: the table that the terminal and every format print, a row per line, a column per provider."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from lightning_bench.record import Record, Row, Status
from lightning_bench.report.tables import notes
from lightning_bench.report.tables.figures import title
from lightning_bench.report.tables.grid_lines import GridLine, common, line_heads, line_texts
from lightning_bench.report.tables.groups import ColumnRows, RowGroup, group
from lightning_bench.report.tables.kinds import FIGURE_KINDS, TableKind, default_kinds

DEFAULT_BASELINE = "flash2"
"""What the papers compare their kernels with."""


@dataclass(frozen=True)
class GridCell:
    """What is at one line and provider: `text`, which says why if there is no `value`."""

    text: str
    value: float | None = None
    best: bool = False
    row: Row | None = None


@dataclass(frozen=True)
class GridColumn:
    """A provider; `over` says what distinguishes the column from others of that provider."""

    provider: str
    family: str
    over: str = ""


@dataclass(frozen=True)
class Grid:
    """One table. `cells[row][column]`; `notes` explain cells, `origin` says where they are from.

    `first` is the first record of its rows, which agree in shape, apart from what `lines` say.
    """

    first: Record
    title: str
    kind: str
    unit: str
    columns: list[GridColumn]
    lines: list[GridLine]
    cells: list[list[GridCell]]
    notes: list[str]
    origin: list[str]

    @property
    def heads(self) -> list[str]:
        """The heads of the columns before the providers: `n`, and before it what differs too."""
        return line_heads(self.lines)

    @property
    def texts(self) -> list[list[str]]:
        """What each line has in the columns of `heads`."""
        heads = self.heads  # which looks at every line
        return [line_texts(line, heads) for line in self.lines]

    @property
    def upright(self) -> Grid:
        """The same cells with one line per length: the table itself, unless it is on its side."""
        return self


@dataclass(frozen=True)
class TableStyle:
    """How a table words cells without a figure, and what is under it.

    `no_row` is of a case that no file has: a suite leaves it out, or it has not been measured, which rows do
    not tell. `words` replace the names of statuses. `absent_first` puts providers that took part nowhere
    before other notes; `sourced` adds notes on rows that lack the figure, and the origin.
    """

    no_row: str
    words: Mapping[Status, str] = field(default_factory=dict)
    absent_first: bool = False
    sourced: bool = True


REPORT = TableStyle("no row", {"oom": "OOM", "ok": "no figure", "unstable": "no figure"})
SWEEP = TableStyle("", absent_first=True, sourced=False)


def grids(
    groups: Iterable[RowGroup], kinds: Sequence[TableKind] | None = None, baseline: str | None = None
) -> list[Grid]:
    """Return the tables of each group: of the given kinds, or of all that its metric can fill.

    A table of a figure that no row has (TFLOP/s under protocol paper, say) is left out, and so is a speedup
    table if `baseline` (`DEFAULT_BASELINE` if none is given) is no column.
    """
    found = []
    for rows in groups:
        table = _GroupTable(rows, baseline or DEFAULT_BASELINE, REPORT)
        first = table.first
        wanted = [kind for kind in kinds or default_kinds(first) if kind.metric == first.metric]
        found += [grid for kind in wanted if (grid := table.grid(kind)) is not None]
    return found


def sweep_grids(records: Iterable[Record]) -> list[Grid]:
    """Return the tables of a sweep's rows: one for all that differ in line and provider only."""
    tables = [_GroupTable(rows, "", SWEEP) for rows in group(Row(record, "") for record in records)]
    return [grid for table in tables if (grid := table.grid(FIGURE_KINDS[table.first.metric])) is not None]


class _GroupTable:
    """The rows of a group as columns and lines, of which tables of several kinds are made."""

    def __init__(self, rows: RowGroup, baseline: str, style: TableStyle) -> None:
        self.rows, self.baseline, self.style = rows, baseline, style
        self.first = rows.rows[0].record
        self.shown = [member for member in rows.columns if not member.absent]
        self.over = _origin_names(rows.columns) if rows.mixed else {}

    def grid(self, kind: TableKind) -> Grid | None:
        """Return the table of this kind; None if it would have no figure where a figure is what it is for."""
        columns = [
            GridColumn(member.first.provider, member.first.family, self.over.get(member.origin, ""))
            for member in self.shown
        ]
        if kind.name == "speedup" and self.baseline not in (column.provider for column in columns):
            return None
        families = [column.family for column in columns]
        cells = [
            with_best([self._cell(kind, m, line) for m in self.shown], kind.best, families)
            for line in self.rows.lines
        ]
        optional = kind.name not in ("ms", "memory", "check")
        if optional and not any(cell.value for line in cells for cell in line):
            return None
        shared = common(self.rows.lines)
        variant = replace(shared.variant, kv_heads=self.first.kv_heads or 0)
        name = title(self.first, variant, shared.ranks)
        if self.rows.mixed:
            name = f"mixed{name.removeprefix(self.first.suite)}"
        return Grid(
            first=self.first,
            title=name,
            kind=kind.name,
            unit=self._unit(kind),
            columns=columns,
            lines=self.rows.lines,
            cells=cells,
            notes=self._notes(kind),
            origin=self.rows.origin if self.style.sourced else [],
        )

    def _cell(self, kind: TableKind, member: ColumnRows, line: GridLine) -> GridCell:
        row = member.rows.get(line)
        value = kind.value(row.record) if row and row.record.worked else None
        if row is None or value is None:
            return cell_without_figure(row, self.style)
        record = row.record
        unstable = record.status == "unstable"
        if kind.name == "speedup":
            base = self._baseline_at(member.origin, line)
            base_value = kind.value(base) if base and base.worked else None
            if base is None or base_value is None:
                return GridCell("no baseline", row=row)
            if not value:
                return GridCell("no figure", row=row)
            value = base_value / value
            unstable = unstable or base.status == "unstable"
        return GridCell(kind.text(record, value) + ("*" if unstable else ""), value, row=row)

    def _baseline_at(self, origin: tuple[str, str, str], line: GridLine) -> Record | None:
        for member in self.shown:
            if member.origin == origin and member.first.provider == self.baseline and line in member.rows:
                return member.rows[line].record
        return None

    def _unit(self, kind: TableKind) -> str:
        if kind.name == "speedup":
            return f"speedup: the time of {self.baseline} over the provider's"
        return "; or ".join(dict.fromkeys(kind.unit(row.record) for row in self.rows.rows))

    def _notes(self, kind: TableKind) -> list[str]:
        lines = [notes.MIXED] if self.rows.mixed else []
        lines += notes.device_notes(row.record for row in self.rows.rows)
        if kind.name == "speedup":
            columns = [(member.first.provider, member.first.family) for member in self.shown]
            lines += notes.mechanism_notes(columns, self.baseline)
        members = self.rows.columns
        if self.style.absent_first:
            members = sorted(members, key=lambda member: not member.absent)
        for member in members:
            name = notes.named(member.first.provider, self.over.get(member.origin, ""))
            if member.absent:
                lines.append(notes.absent_note(name, member.first))
                continue
            lines += notes.status_notes(name, member.records)
            bare = [line for line, r in member.records.items() if r.status == "ok" and kind.value(r) is None]
            if bare and self.style.sourced:
                lines.append(notes.lacking_note(name, bare))
        return lines


def lines_below(grid: Grid, after: Grid | None = None) -> list[str]:
    """Return the notes and the origin of a table, without those that the table `after` it has below, too.

    That are notes of the same rows, and an origin that says the same, in whatever order of providers.
    """
    if after is None:
        return [*grid.notes, *grid.origin]
    shared = after.notes if after.title == grid.title else []
    notes = [note for note in grid.notes if note not in shared]
    return [*notes, *([] if _said(grid.origin) == _said(after.origin) else grid.origin)]


def _said(origin: Iterable[str]) -> list[set[str]]:
    return [set(line.removeprefix("providers: ").split("; ")) for line in origin]


def cell_without_figure(row: Row | None, style: TableStyle = REPORT) -> GridCell:
    """Return the cell of a row that has no figure, or of no row: it says why."""
    if row is None:
        return GridCell(style.no_row)
    return GridCell(style.words.get(row.record.status, row.record.status), row=row)


def with_best(cells: list[GridCell], best: str, families: Sequence[str]) -> list[GridCell]:
    """Mark the best value of each family in a line, and those that print the same, if there are two.

    Families compute different things, so that the best of all would rank mechanisms. `families` has one
    name per cell.
    """
    marked = list(cells)
    for family in dict.fromkeys(families):
        members = [at for at, of in enumerate(families) if of == family and cells[at].value is not None]
        values = [value for at in members if (value := cells[at].value) is not None]
        if len(values) < 2:
            continue
        value = min(values) if best == "low" else max(values)
        text = next(cells[at].text for at in members if cells[at].value == value).rstrip("*")
        for at in members:
            if cells[at].text.rstrip("*") == text:
                marked[at] = replace(cells[at], best=True)
    return marked


def _origin_names(members: Iterable[ColumnRows]) -> dict[tuple[str, str, str], str]:
    """Return what to call each origin of a mixed table: no more than distinguishes them."""
    records = {member.origin: member.first for member in members}
    machines = {r.machine_id: r.device_name or r.machine_id for r in records.values()}
    doubled = len(set(machines.values())) < len(machines)
    parts: list[Callable[[Record], str]] = [
        lambda r: r.suite,
        lambda r: r.protocol,
        lambda r: f"{machines[r.machine_id]}{f' [{r.machine_id}]' if doubled else ''}",
    ]
    telling = [part for part in parts if len({part(r) for r in records.values()}) > 1]
    return {origin: ", ".join(part(r) for part in telling) for origin, r in records.items()}
