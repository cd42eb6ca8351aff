"""Views: what the page shows of one suite, metric and direction, merged from the tables of its shapes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import pandas as pd

from lightning_bench.model_run import MODEL_RUN
from lightning_bench.record import Record, Row
from lightning_bench.record.discover import file_name
from lightning_bench.record.row import VARIANT
from lightning_bench.report.collect import frame_of
from lightning_bench.report.tables.figures import model_of
from lightning_bench.report.tables.grid import Grid, GridCell, GridColumn
from lightning_bench.report.tables.grid_lines import GridLine, common
from lightning_bench.report.tables.origin import distinct
from lightning_bench.variant import packing_label, read_packing
from lightning_bench.words import DIRECTION_WORDS, counted

_METRICS = {
    "speed": "Time",
    "memory": "Memory",
    "check": "Error",
    "train": "Training",
    "generate": "Generation",
    "energy": "Energy",
}
_DIMS = ("heads", "head_dim", "value_dim")
_FIELDS = ("device", "dtype", *MODEL_RUN, "ranks", "batch", *_DIMS, *VARIANT, "seq_len")
_EMPTY = GridCell("")
_MANY = 8  # columns from which a table of few lines is turned on its side

LineShape = dict[str, str | int]


@dataclass(frozen=True)
class Line:
    """One line of a view's table: a shape with its length. `key` names it in the address of the page."""

    key: str
    shape: LineShape


@dataclass(frozen=True)
class Kind:
    """The figures of a view of one kind: `cells[line][column]`."""

    unit: str
    notes: list[str]
    cells: list[list[GridCell]]


@dataclass(frozen=True)
class View:
    """One table with its plots. `axes` are the fields that lines differ in; `cases` index the page's rows.

    `column_notes` say what is below a provider's name: its family, and its dims where these differ.
    """

    name: str
    suite: str
    title: str
    under: str
    words: str
    axes: list[str]
    lines: list[Line]
    columns: list[GridColumn]
    column_notes: list[str]
    kinds: dict[str, Kind]
    cases: list[list[int]]
    origin: list[str]
    records: list[Record]

    @property
    def first(self) -> Kind:
        """The kind that is shown before anybody switches."""
        return next(iter(self.kinds.values()))

    @property
    def column_keys(self) -> list[str]:
        """Return what the address calls each column: its provider, numbered where two share one."""
        names = [column.provider for column in self.columns]
        return [f"{name}~{at}" if names.count(name) > 1 else name for at, name in enumerate(names)]

    @property
    def transposed(self) -> bool:
        """Whether providers are the lines of the table, since they are many and shapes are few."""
        return len(self.columns) > max(_MANY, 2 * len(self.lines)) and "against" not in self.kinds


@dataclass(frozen=True)
class _Part:
    """The grids of one table, one per kind, and the shape of its rows; `key` is that of its view."""

    grids: list[Grid]
    record: Record
    records: list[Record]
    key: tuple[str, ...]

    def shape(self, line: GridLine) -> LineShape:
        found = {name: getattr(self.record, name) for name in _FIELDS}
        found |= {name: found[name] or "" for name in ("step_tokens", "new_tokens")}
        found |= {"model": model_of(self.record), "batch": line.batch or self.record.batch}
        found |= line.columns
        return found | {"seq_len": line.n, "kv_heads": self.record.kv_heads or ""}

    @property
    def shared(self) -> LineShape:
        """The shape as far as its lines agree, without a length."""
        lines = self.grids[0].lines
        return self.shape(common(lines))


def views_of(grids: Iterable[Grid]) -> tuple[list[View], pd.DataFrame]:
    """Return the views, those of a suite together and times first, and a frame of the rows in their cells."""
    index: dict[int, int] = {}
    rows: list[Row] = []

    def number(row: Row | None) -> int:
        if row is None:
            return -1
        if id(row) not in index:
            index[id(row)] = len(rows)
            rows.append(row)
        return index[id(row)]

    views: dict[tuple[str, ...], list[_Part]] = {}
    for part in _parts(grids):
        views.setdefault(part.key, []).append(part)
    machines = {part.record.machine_id for parts in views.values() for part in parts}
    made = [_view(parts, number, several=len(machines) > 1) for parts in views.values()]
    suites = list(dict.fromkeys(view.suite for view in made))
    metrics = list(_METRICS)
    made.sort(key=lambda view: (suites.index(view.suite), metrics.index(view.records[0].metric)))
    return made, frame_of(rows)


def shape_words(shape: LineShape, fields: Sequence[str]) -> str:
    """Return these fields of a shape in words: batch 4, 32 heads, head dim 128, bf16."""
    found = []
    if "batch" in fields:
        found.append(f"batch {shape['batch']}")
    shaped = bool(shape.get("heads", 1))  # a published figure of a whole model has no heads
    if "heads" in fields and shaped:
        found.append(counted(int(shape["heads"]), "head"))
    if shaped and ("head_dim" in fields or "value_dim" in fields):
        found.append(f"head dim {dims_text(shape)}")
    if "kv_heads" in fields and shape["kv_heads"]:
        found.append(f"{shape['kv_heads']} kv heads")
    for name in (*MODEL_RUN, "ranks"):
        if name in fields and shape[name]:
            found.append(training_text(shape, name))
    words = {"layer": "layer", "rank": "rank", "packing": "documents"}
    found += [
        f"{word} {field_text(shape, name)}" for name, word in words.items() if name in fields and shape[name]
    ]
    found += [str(shape[name]) for name in ("dtype", "device") if name in fields]
    return ", ".join(found)


def field_text(shape: LineShape, name: str) -> str:
    """Return a field of a shape as a table has it, in few letters."""
    if name == "head_dim":
        return dims_text(shape)
    if name == "kv_heads":
        return str(shape["kv_heads"] or shape["heads"])
    return packing_label(read_packing(str(shape[name]))) if name == "packing" else str(shape[name])


def training_text(shape: LineShape, name: str) -> str:
    """Return what is run, and how, in words: tnl-1b, 65536 tokens per step, layers recomputed."""
    words = {
        "step_tokens": "{} tokens per step",
        "compile": "{} compiled",
        "recompute": "{} recomputed",
        "new_tokens": "{} new tokens",
        "ranks": "{} ranks",
    }
    return words.get(name, "{}").format(shape[name])


def dims_text(shape: LineShape) -> str:
    """Return head_dim, with value_dim if that differs: 128, 16/128."""
    d, e = shape["head_dim"], shape["value_dim"]
    return str(d) if d == e else f"{d}/{e}"


def _parts(grids: Iterable[Grid]) -> Iterable[_Part]:
    for _, members in groupby(grids, lambda grid: (grid.title, grid.origin, grid.columns, grid.lines)):
        kinds = list(members)
        records = [cell.row.record for line in kinds[0].cells for cell in line if cell.row]
        first = kinds[0].first
        alone = kinds[0].title if kinds[0].kind == "against" or kinds[0].title.startswith("mixed") else ""
        key = (first.suite, first.protocol, first.machine_id, first.metric, first.direction)
        yield _Part(kinds, first, records, (alone,) if alone else key)


def _view(parts: Sequence[_Part], number: Callable[[Row | None], int], *, several: bool) -> View:
    first = parts[0].record
    columns = list(dict.fromkeys(c for part in parts for c in part.grids[0].columns))
    folded = _folded(parts, columns)
    lines: dict[tuple[object, ...], Line] = {}
    at: dict[tuple[int, int], tuple[object, ...]] = {}
    dropped = _told_by_model(first) if first.model else set(_DIMS) if folded else set()
    kept = [name for name in _FIELDS if name not in dropped]
    for place, part in enumerate(parts):
        for row, line in enumerate(part.grids[0].lines):
            shape = part.shape(line)
            key = tuple(shape[name] for name in kept)
            lines.setdefault(key, Line("", shape))
            at[place, row] = key
    axes = [name for name in kept if len({line.shape[name] for line in lines.values()}) > 1]
    axes = [name for name in axes if name != "value_dim" or "head_dim" not in axes]
    axes = [*(name for name in axes if name != "seq_len"), "seq_len"]
    places = {key: index for index, key in enumerate(lines)}

    def cells_of(kind: str) -> list[list[GridCell]]:
        table = [[_EMPTY] * len(columns) for _ in lines]
        for place, part in enumerate(parts):
            grid = next((grid for grid in part.grids if grid.kind == kind), None)
            for row in range(len(part.grids[0].lines)):
                line = table[places[at[place, row]]]
                for column, of in enumerate(part.grids[0].columns):
                    base = part.grids[0].cells[row][column]
                    line[columns.index(of)] = grid.cells[row][column] if grid else GridCell("–", row=base.row)
        return table

    names = list(dict.fromkeys(grid.kind for part in parts for grid in part.grids))
    kinds = {name: _kind(name, parts, cells_of(name)) for name in names}
    told = {"value_dim"} if "head_dim" in axes else set()
    told |= {"device"} if first.device_name else set()
    fixed = [name for name in kept if name not in axes and name not in told]
    records = [record for part in parts for record in part.records] or [first]
    return View(
        name=file_name(_name(parts[0], several=several)),
        suite=_suite(first, parts[0].grids[0].kind),
        title=_title(parts[0]),
        under=_under(records, names[0], shape_words(parts[0].shared, fixed)),
        words=_words(parts, records),
        axes=axes,
        lines=[Line(_key(line.shape, axes), line.shape) for line in lines.values()],
        columns=columns,
        column_notes=[", ".join(filter(None, [c.over or c.family, folded.get(c, "")])) for c in columns],
        kinds=kinds,
        cases=[[number(cell.row) for cell in line] for line in kinds[names[0]].cells],
        origin=list(dict.fromkeys(line for part in parts for line in part.grids[0].origin)),
        records=records,
    )


def _told_by_model(record: Record) -> set[str]:
    """Return what follows from the model of a row: in training from its length too."""
    return {*_DIMS} if record.metric == "generate" else {"batch", *_DIMS}


def _folded(parts: Sequence[_Part], columns: Sequence[GridColumn]) -> dict[GridColumn, str]:
    """Return the dims of each column if every column has one and not all the same; else nothing."""
    found: dict[GridColumn, set[tuple[int, ...]]] = {column: set() for column in columns}
    for part in parts:
        for column in part.grids[0].columns:
            found[column].add(tuple(getattr(part.record, name) for name in _DIMS))
    if any(len(dims) > 1 for dims in found.values()) or len(set().union(*found.values())) < 2:
        return {}
    usual = Counter(next(iter(dims)) for dims in found.values()).most_common(1)[0][0]
    words = {}
    for column, (dims,) in found.items():
        shape: LineShape = dict(zip(_DIMS, dims, strict=True))
        words[column] = "" if dims == usual else shape_words(shape, _DIMS)
    return words


def _kind(name: str, parts: Sequence[_Part], cells: list[list[GridCell]]) -> Kind:
    grids = [(part, grid) for part in parts for grid in part.grids if grid.kind == name]
    units = list(dict.fromkeys(grid.unit for _, grid in grids))
    notes: dict[str, list[str]] = {}
    for part, grid in grids:
        for note in grid.notes:
            notes.setdefault(note, []).append(shape_words(part.shared, _shape_fields(part)))
    shown = [
        note if len(where) == len(grids) or len(grids) == 1 else f"{note} ({'; '.join(dict.fromkeys(where))})"
        for note, where in notes.items()
    ]
    return Kind("; or ".join(units), shown, cells)


def _shape_fields(part: _Part) -> tuple[str, ...]:
    if part.record.model:
        return (*MODEL_RUN, "ranks", *({"batch"} - _told_by_model(part.record)), "dtype")
    return ("batch", *_DIMS, *VARIANT, "ranks", "dtype")


def _key(shape: LineShape, axes: Sequence[str]) -> str:
    letters = {
        "batch": "b",
        "heads": "h",
        "head_dim": "d",
        "value_dim": "e",
        "kv_heads": "kv",
        "layer": "layer",
        "rank": "rank",
        "packing": "docs",
        "ranks": "ranks",
        "seq_len": "n",
    }
    return "-".join(f"{letters.get(name, '')}{shape[name]}".replace(" ", "") for name in axes)


def _name(part: _Part, *, several: bool) -> str:
    r, kind = part.record, part.grids[0].kind
    if len(part.key) == 1:
        return f"{part.key[0]}-{kind}"
    protocol = "" if r.protocol == "lbench" else f"-{r.protocol}"
    machine = f"-{r.machine_id}" if several else ""
    return f"{r.suite or 'none'}-{r.metric}-{r.direction}{protocol}{machine}"


def _suite(r: Record, kind: str) -> str:
    protocol = f", protocol {r.protocol}" if r.protocol != "lbench" and kind != "against" else ""
    return f"{r.suite or 'no suite'}{protocol}"


def _title(part: _Part) -> str:
    r = part.record
    if r.metric in ("train", "generate"):
        return ": ".join([_METRICS[r.metric], *part.grids[0].title.split(": ")[1:]])
    words = f"{_METRICS[r.metric]}, {DIRECTION_WORDS[r.direction]}"
    return words if len(part.key) > 1 else f"{words}: {shape_words(part.shared, _shape_fields(part))}"


def _under(records: Sequence[Record], kind: str, fixed: str) -> str:
    """Return shape, device and protocol; of published rows beside measured ones, those of the measured."""
    if kind == "against":
        here = [r for r in records if r.harness_version]
        return f"here: {_under(here, '', '')}" if here else "not measured here"
    protocols = " and ".join(dict.fromkeys(f"protocol {r.protocol}" for r in records))
    single = fixed and any(r.seq_len > (r.step_tokens or r.seq_len) for r in records)
    longer = "longer sequences one at a time" if single else ""
    return ", ".join(filter(None, [fixed, longer, distinct(r.device_name for r in records), protocols]))


def _words(parts: Sequence[_Part], records: Sequence[Record]) -> str:
    """Return what a filter finds the view by, in lower case."""
    found = [part.grids[0].title for part in parts] + [_title(parts[0])]
    found += [part for r in records for part in (r.status, r.protocol, r.device_name, r.family)]
    found += [f"{c.provider} {c.over}" for part in parts for c in part.grids[0].columns]
    found += [f"head_dim {p.record.head_dim} batch {p.record.batch} heads {p.record.heads}" for p in parts]
    return " ".join(dict.fromkeys(found)).lower()
