"""Table 1 of arXiv 2401.04658, training of whole models: published and measured here, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass

from lightning_bench.record import Record, Row
from lightning_bench.report.collect import frame_of, rows_by
from lightning_bench.report.tables import notes
from lightning_bench.report.tables.figures import devices_text
from lightning_bench.report.tables.grid import Grid, GridCell, GridColumn, cell_without_figure
from lightning_bench.report.tables.grid_lines import GridLine
from lightning_bench.report.tables.kinds import KINDS
from lightning_bench.report.tables.origin import origin_lines
from lightning_bench.report.tables.turned import TurnedGrid
from lightning_bench.variant import PLAIN

_LINEAR_1 = "lightning1"
_HEADS = ["params", "model", "attention", "tokens/s"]
_ONE_LINE = ["provider", "dtype", "compile", "recompute", "step_tokens", "parallel", "ranks"]
_TOLD: dict[str, Callable[[Record], str]] = {
    "dtype": lambda record: record.dtype,
    "step_tokens": lambda record: f"{record.step_tokens} tokens per step",
    "compile": lambda record: "compiled" if record.compile else "not compiled",
}
"""What two lines may differ in besides what each says in any case, in words."""
_UNIT = "tokens per second and GPU: published, here, and here / published, above 1 is faster here"


@dataclass(frozen=True)
class _Column:
    """One line of the printed table: rows by length, what they are called, and the text of a cell."""

    column: GridColumn
    labels: list[str]
    cells: dict[int, GridCell]


def training_tables(measured: Iterable[Row], published: Iterable[Row]) -> list[Grid]:
    """Return the published table of whole models, once for each machine that has trained one of its models.

    Every attention that was measured in a model of the table has a line of its own, beside the published
    line of that model: LLaMA with any softmax attention, TransNormerLLM with Lightning Attention-1 or with
    any other linear attention.
    """
    theirs = [row for row in published if not row.record.heads and row.record.metric == "speed"]
    trained = [
        row
        for row in measured
        if row.record.metric == "train" and any(_matches(each.record, row.record) for each in theirs)
    ]
    return [_table(theirs, rows) for rows in rows_by(frame_of(trained), ["machine_id"]).values()]


def _matches(published: Record, here: Record) -> bool:
    """Whether a row here is of the model and the kind of attention of a published one."""
    architecture, _, size = here.model.partition("-")
    model, _, attention = published.provider.partition("-")
    if (architecture, size.upper()) != (model, _size(published)):
        return False
    return model == "llama" or (attention == "la1") == here.provider.startswith(_LINEAR_1)


def _size(published: Record) -> str:
    """Return the parameters in a published row's `provider_config`: 0.4B."""
    words = dict(word.partition("=")[::2] for word in published.provider_config.split())
    return words.get("model", "")


def _table(theirs: Sequence[Row], here: Sequence[Row]) -> Grid:
    lengths = sorted({row.record.seq_len for row in theirs})
    columns: list[_Column] = []
    absent: list[str] = []
    differing = {name for name in _TOLD if len({getattr(row.record, name) for row in here}) > 1}
    for rows in rows_by(frame_of(theirs), ["suite", "provider"]).values():
        published = {row.record.seq_len: row for row in rows}
        columns.append(_published(published))
        own = [row for row in here if _matches(rows[0].record, row.record)]
        for members in rows_by(frame_of(own), _ONE_LINE).values():
            if all(row.record.status in ("unavailable", "unsupported") for row in members):
                absent.append(notes.absent_note(members[0].record.provider, members[0].record))
                continue
            columns += _here({row.record.seq_len: row for row in members}, published, differing)
    first = here[0].record
    grid = Grid(
        first=first,
        title=f"{first.suite}-train: table 1 of arXiv 2401.04658",
        kind="against",
        unit=_UNIT,
        columns=[each.column for each in columns],
        lines=[GridLine(PLAIN, n) for n in lengths],
        cells=[[each.cells.get(n) or cell_without_figure(None) for each in columns] for n in lengths],
        notes=[*dict.fromkeys(absent), *_notes(theirs[0].record, here)],
        origin=origin_lines(frame_of(here)),
    )
    return TurnedGrid.turn(grid, _HEADS, [each.labels for each in columns])


def _published(rows: dict[int, Row]) -> _Column:
    record = next(iter(rows.values())).record
    model, _, attention = record.label.removesuffix(f", {_size(record)}").partition(" with ")
    value = KINDS["tokens"].value
    return _Column(
        GridColumn(record.provider, record.family, f"published, {_size(record)}"),
        [_size(record), model, attention, "published"],
        {n: _cell(row, value(row.record), "{:.0f}") for n, row in rows.items()},
    )


def _here(rows: dict[int, Row], published: dict[int, Row], differing: Set[str]) -> list[_Column]:
    """Return the line of an attention measured here, and below it the ratios to the published one.

    It says what it has of the columns that are `differing` between lines.
    """
    record = next(iter(rows.values())).record
    how = "".join(f", {word(record)}" for name, word in _TOLD.items() if name in differing)
    how += f", {record.recompute} recomputed" if record.recompute else ""
    how += f", {devices_text(record)}" if record.parallel else ""
    ours, theirs = KINDS["tgs"].value, KINDS["tokens"].value
    ratios = {}
    for n, row in rows.items():
        mine, other = ours(row.record), theirs(published[n].record) if n in published else None
        ratios[n] = _cell(row, mine / other if mine and other else None, "{:.2f}", "no ratio")
    return [
        _Column(
            GridColumn(record.provider, record.family, f"{record.model}{how}"),
            ["", "", record.label or record.provider, f"here{how}"],
            {n: _cell(row, ours(row.record), "{:.0f}") for n, row in rows.items()},
        ),
        _Column(
            GridColumn(record.provider, record.family, f"{record.model}{how}, ratio"),
            ["", "", "", "ratio"],
            ratios,
        ),
    ]


def _cell(row: Row, value: float | None, shape: str, otherwise: str = "") -> GridCell:
    if value is None or not row.record.worked:
        return GridCell(otherwise, row=row) if otherwise else cell_without_figure(row)
    star = "*" if row.record.status == "unstable" else ""
    return GridCell(shape.format(value) + star, value, row=row)


def _notes(published: Record, here: Sequence[Row]) -> list[str]:
    record = here[0].record
    steps = ", ".join(dict.fromkeys(f"{row.record.step_tokens}" for row in here))
    devices = " or ".join(dict.fromkeys(devices_text(row.record) for row in here))
    return [
        f"published on: {published.device_name}, in Metaseq, batch and parallelism not stated; here: "
        f"{record.device_name or record.device}, {devices}, {steps} tokens per step of each or one sequence: "
        "the ratio is one of devices and frameworks too",
        *notes.device_notes(row.record for row in here),
    ]
