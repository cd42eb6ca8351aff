"""Files of plots: every plot that rows can fill, named after their table, drawn by several processes."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, get_args

from matplotlib.figure import Figure

from lightning_bench.model_run import MODEL_RUN
from lightning_bench.record import Record, Row
from lightning_bench.record.discover import file_name
from lightning_bench.report.collect import ORIGIN, SHAPE, frame_of, rows_by
from lightning_bench.report.plots import PlotFormat
from lightning_bench.report.plots.dot_plot import MOST_SHAPES, SAME, dot_plot, dot_shape
from lightning_bench.report.plots.heat import heat_map
from lightning_bench.report.plots.line_plots import (
    memory_plot,
    per_token_plot,
    roofline_plot,
    speedup_plot,
    time_plot,
)
from lightning_bench.report.plots.plot_rows import SHARED, Over, check_same
from lightning_bench.report.plots.style import COLUMN, WIDE, Look, house_style
from lightning_bench.report.plots.training_plots import TrainedQuantity, training_plot
from lightning_bench.report.tables.figures import size_of, title

PlotName = Literal[
    "time", "speedup", "per_token", "roofline", "memory", "heat_floor", "heat_ms", "dots",
    "tokens", "peak", "energy",
]  # fmt: skip

_NOT_BATCH = [column for column in (*ORIGIN, *SHAPE) if column != "batch"]
_ALONE = 12  # plots that one process draws sooner than others start
_MOST_PROCESSES = 8
_BATCHES = 3  # batches from which a line over them says more than dots


@dataclass(frozen=True)
class Drawing:
    """One plot to be drawn: the path of its files without the ending, its kind, and the records in it."""

    stem: str | Path
    kind: PlotName
    records: list[Record]
    look: Look
    over: Over = "seq_len"
    baseline: str = ""

    def figure(self) -> Figure | None:
        """Draw it; None if the records leave nothing to show."""
        records, look, over = self.records, self.look, self.over
        match self.kind:
            case "time":
                return time_plot(records, look=look, over=over)
            case "speedup":
                return speedup_plot(records, self.baseline, look=look, over=over)
            case "per_token":
                return per_token_plot(records, look=look)
            case "roofline":
                return roofline_plot(records, look=look)
            case "memory":
                return memory_plot(records, look=look, over=over)
            case "dots":
                return dot_plot(records, look=look)
            case "heat_floor":
                return heat_map(records, look=look)
            case "heat_ms":
                return heat_map(records, value="ms", look=look)
            case "tokens" | "peak" | "energy" as quantity:
                return training_plot(records, quantity, look=look, over=over)


def save_plot(
    figure: Figure, stem: str | Path, formats: Sequence[PlotFormat], *, title: str = ""
) -> list[Path]:
    """Write `stem.png` and so on, and return the paths. No date is in the files: their bytes repeat."""
    paths = []
    for name in formats:
        path = Path(f"{stem}.{name}")
        settings: dict[PlotFormat, dict[str, Any]] = {
            # Level 6, the default, takes several times as long and saves a tenth of the size.
            "png": {"metadata": {"Software": None, "Title": title}, "pil_kwargs": {"compress_level": 1}},
            "svg": {"metadata": {"Date": None, "Creator": "lightning-bench", "Title": title}},
            "pdf": {"metadata": {"CreationDate": None, "Creator": "lightning-bench", "Title": title}},
        }
        with house_style():
            figure.savefig(path, format=name, **settings[name])
        if name == "svg":
            path.write_text(_with_settled_clips(path.read_text(encoding="utf-8")), encoding="utf-8")
        paths.append(path)
    return paths


def _with_settled_clips(svg: str) -> str:
    """Name the clip paths after what is drawn: matplotlib's names vary with the last bit of their sizes."""
    numbers = {name: number for number, name in enumerate(re.findall(r'<clipPath id="(\w+)"', svg))}

    def named(prefix: str) -> str:
        uses = re.compile(rf'(<clipPath id="|url\(#)({"|".join(numbers)})\b')
        return uses.sub(lambda use: f"{use[1]}{prefix}{numbers[use[2]]}", svg) if numbers else svg

    return named(f"clip-{hashlib.sha256(named('').encode()).hexdigest()[:8]}-")


def drawings_of(rows: Iterable[Row], folder: str | Path, baseline: str | None = None) -> list[Drawing]:
    """Return every plot that the rows may fill, in the order of their tables.

    Times, speedups, memory and dots are drawn in one column and wide, the others in one column. The rows
    are of one machine and protocol, else ValueError. Files are named after the table
    (`…-dtype_bf16-time.svg`, `…-time-wide.svg` for two columns); plots of several tables lack what these
    differ in.
    """
    rows = list(rows)
    check_same([row.record for row in rows], ("machine_id", "protocol"))
    return [
        replace(drawing, stem=Path(folder) / (file_name(str(drawing.stem)) + drawing.look.suffix))
        for drawing in _drawings(rows, baseline)
    ]


def why_no_plot(rows: Iterable[Row]) -> str:
    """Return why rows have left nothing to draw, and what would."""
    records = [row.record for row in rows]
    if all(record.metric == "check" for record in records):
        return (
            "`lbench check` measures no time and no memory: draw results of `lbench speed` or `lbench memory`"
        )
    if all(record.metric == "energy" for record in records):
        return "energy has tables only: draw results of `lbench speed` or `lbench memory`"
    if not any(record.worked and record.heads for record in records):
        return "no row has a figure of a kernel"
    return (
        "a line needs figures at two lengths or three batch sizes, and dots need three providers at one "
        "length: measure more of either"
    )


def draw(
    drawings: Sequence[Drawing], formats: Sequence[PlotFormat], *, processes: int | None = None
) -> Iterator[list[Path]]:
    """Yield the files of each drawing, in order; one that has nothing to show has none.

    `processes` draw at once, by default one per core unless there are few plots. They start with the call
    and not with the first file that is asked for.
    """
    if processes is None:
        processes = 1 if len(drawings) <= _ALONE else min(len(os.sched_getaffinity(0)), _MOST_PROCESSES)
    if processes == 1:
        return (_save(drawing, formats) for drawing in drawings)
    pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"))
    started = [pool.submit(_save, drawing, formats) for drawing in drawings]
    return _finished(pool, started)


def _finished(pool: ProcessPoolExecutor, started: Sequence[Future[list[Path]]]) -> Iterator[list[Path]]:
    try:
        for each in started:
            yield each.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _save(drawing: Drawing, formats: Sequence[PlotFormat]) -> list[Path]:
    figure = drawing.figure()
    if figure is None:
        return []
    stem = Path(drawing.stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    return save_plot(figure, stem, formats, title=stem.name)


def _drawings(rows: Sequence[Row], baseline: str | None) -> Iterator[Drawing]:
    """Yield plots of tables of several lengths, then of those of one length, then of all dims together."""
    yield from _of_training([row for row in rows if row.record.metric == "train"])
    yield from _of_generation([row for row in rows if row.record.metric == "generate"])
    rows = [row for row in rows if row.record.metric not in ("train", "generate")]
    single: list[Row] = []
    for members in rows_by(frame_of(rows), (*ORIGIN, *SHAPE)).values():
        if len({row.record.seq_len for row in members}) > 1:
            yield from _over(members, "seq_len", baseline)
        else:
            single += members
    for members in rows_by(frame_of(single), _NOT_BATCH).values():
        if len({row.record.batch for row in members}) >= _BATCHES:
            yield from _over(members, "batch", baseline)
            single = [row for row in single if row not in members]
    for members in rows_by(frame_of(single), SAME).values():
        parts = _apart_in_heads([row.record for row in members])
        for records in parts:
            yield from _dots(records, apart=len(parts) > 1)
    for members in rows_by(frame_of(row for row in rows if row.record.metric == "speed"), SHARED).values():
        records = [row.record for row in members]
        name = _without(records[0], "qk_dim", "v_dim")
        yield Drawing(f"{name}-heat_floor", "heat_floor", records, COLUMN)
        yield Drawing(f"{name}-heat_ms", "heat_ms", records, COLUMN)


def _of_training(rows: Sequence[Row]) -> Iterator[Drawing]:
    """Yield plots over n of models of one size, whatever attention they have."""
    frame = frame_of(rows).assign(size=[size_of(row.record) for row in rows])
    alike = [*ORIGIN, "device", "dtype", "size", "ranks", *(name for name in MODEL_RUN if name != "model")]
    for members in rows_by(frame, alike).values():
        records = [row.record for row in members]
        name = title(records[0]).replace(records[0].model, size_of(records[0]))
        for kind in get_args(TrainedQuantity):
            yield from _both(Drawing(f"{name}-{kind}", kind, records, COLUMN))


def _of_generation(rows: Sequence[Row]) -> Iterator[Drawing]:
    """Yield plots of models of one size: over the batch for each prompt, over the prompt for each batch."""
    frame = frame_of(rows).assign(size=[size_of(row.record) for row in rows])
    alike = [*ORIGIN, "device", "dtype", "size", *(name for name in MODEL_RUN if name != "model")]
    axes: list[tuple[Over, Over, str]] = [("batch", "seq_len", "prompt"), ("seq_len", "batch", "batch")]
    for over, fixed, word in axes:
        for members in rows_by(frame, [*alike, fixed]).values():
            records = [row.record for row in members]
            name = f"{title(records[0])}-{word}{getattr(records[0], fixed)}"
            for kind in get_args(TrainedQuantity):
                yield from _both(Drawing(f"{name}-{kind}", kind, records, COLUMN, over))


def _over(rows: Sequence[Row], over: Over, baseline: str | None) -> Iterator[Drawing]:
    records = [row.record for row in rows]
    first = records[0]
    name = title(first) if over == "seq_len" else _without(first, "batch")
    if first.metric == "memory":
        yield from _both(Drawing(f"{name}-memory", "memory", records, COLUMN, over))
    elif first.metric == "speed":
        yield from _both(Drawing(f"{name}-time", "time", records, COLUMN, over))
        if baseline is not None:
            yield from _both(Drawing(f"{name}-speedup", "speedup", records, COLUMN, over, baseline))
        if over == "seq_len":
            yield Drawing(f"{name}-per_token", "per_token", records, COLUMN)
            yield Drawing(f"{name}-roofline", "roofline", records, COLUMN)


def _dots(records: Sequence[Record], *, apart: bool) -> Iterator[Drawing]:
    if records[0].metric in ("check", "energy"):
        return
    shapes = list(dict.fromkeys(map(dot_shape, records)))
    name = _without(records[0], "batch", *([] if apart else ["head"]), "qk_dim", "v_dim", "docs")
    for start in range(0, len(shapes), MOST_SHAPES):
        kept = [r for r in records if dot_shape(r) in shapes[start : start + MOST_SHAPES]]
        number = f"-{start // MOST_SHAPES + 1}" if start else ""
        yield from _both(Drawing(f"{name}-dots{number}", "dots", kept, COLUMN))


def _apart_in_heads(records: Sequence[Record]) -> list[list[Record]]:
    """Return the records of each number of heads if a provider has several at one shape, else all."""
    places = [(r.provider, *dot_shape(r), r.head_dim, r.value_dim) for r in records]
    if len(set(places)) == len(places):
        return [list(records)]
    heads = dict.fromkeys(r.heads for r in records)
    return [[r for r in records if r.heads == each] for each in heads]


def _both(drawing: Drawing) -> Iterator[Drawing]:
    yield drawing
    yield replace(drawing, look=WIDE)


def _without(record: Record, *parts: str) -> str:
    """Return the title of the record's table without these parts, in which the rows of a plot differ."""
    numbered = [part for part in parts if part != "docs"]
    variant = replace(record.shape.variant, documents=()) if "docs" in parts else None
    return re.sub(rf"-(?:{'|'.join(numbered)})\d+", "", title(record, variant))
