"""Evidence for findings on the published tables: rows of both sides by cell, and the files they are from."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lightning_bench.case import Direction, Shape
from lightning_bench.errors import UsageError
from lightning_bench.families.work import Work
from lightning_bench.record import Record, Row
from lightning_bench.report.tables.kinds import figure
from lightning_bench.report.tables.paper_tables import title

FAULTS_CSV = "published-faults.csv"
FAULTS_COMMAND = f"python benchmarks/published_faults.py results/h200/{FAULTS_CSV}"
_FAULT_COLUMNS = ("fault", "provider", "direction", "seq_len", "with_ms", "without_ms", "device_name")
_REPEATS = 20  # of the published memory script
_SLOPES_MIB = 512 / 2**20  # 4 bytes a head for the slopes: one block of the allocator


@dataclass(frozen=True)
class Listing:
    """A table of evidence, as text."""

    caption: str
    head: list[str]
    lines: list[list[str]]


@dataclass(frozen=True)
class Finding:
    """One thing that the published tables measured other than they say, and the files that show it."""

    title: str
    paragraphs: list[str]
    listings: list[Listing]
    sources: list[str] = field(default_factory=list)


class Evidence:
    """Rows by what they measure; every row that is asked for becomes a source of the finding that asked."""

    def __init__(self, published: Iterable[Row], measured: Iterable[Row], faults: Iterable[Path]) -> None:
        self._published = {_key(row.record, row.record.suite): row for row in published}
        self._measured: dict[tuple[object, ...], Row] = {}
        for row in measured:
            key = _key(row.record, row.record.protocol)
            if key not in self._measured or self._measured[key].record.time_utc <= row.record.time_utc:
                self._measured[key] = row
        self.faults = [(path, line) for path in faults for line in _fault_lines(path)]
        self.used: dict[str, None] = {}

    def published(
        self, suite: str, metric: str, direction: str, provider: str, n: int, *, batch: int = 4
    ) -> Record:
        """A published row. Raises KeyError where there is none."""
        return self._use(self._published[suite, metric, direction, provider, n, batch])

    def here(
        self, protocol: str, metric: str, direction: str, provider: str, n: int, *, batch: int = 4
    ) -> Record | None:
        """The latest row that measured the cell of the published shape here, with a figure; None without."""
        row = self._measured.get((protocol, metric, direction, provider, n, batch))
        if row is None or row.record.status not in ("ok", "unstable"):
            return None
        return self._use(row)

    def fault(self, name: str) -> Listing | None:
        """What the script of ``FAULTS_COMMAND`` measured of one fault, with and without it, in turns."""
        rows = [(path, line) for path, line in self.faults if line["fault"] == name]
        if not rows:
            return None
        self.used |= dict.fromkeys(_shown(path) for path, _ in rows)
        lines = []
        for _, line in rows:
            with_ms, without_ms = float(line["with_ms"]), float(line["without_ms"])
            figures = [
                f"{with_ms:.4f}",
                f"{without_ms:.4f}",
                f"{with_ms - without_ms:.4f}",
                f"{with_ms / without_ms:.3f}",
            ]
            lines.append(
                [line["provider"], line["direction"], line["seq_len"], *figures, line["device_name"]]
            )
        head = ["provider", "direction", "n", "with it, ms", "without, ms", "adds, ms", "ratio", "device"]
        return Listing(f"The same call with and without the fault ({name}), in turns", head, lines)

    def _use(self, row: Row) -> Record:
        self.used[row.source] = None
        return row.record


def faults_in(paths: Sequence[str | Path]) -> list[Path]:
    """The files of ``FAULTS_COMMAND`` in these folders."""
    return [found for path in map(Path, paths) if path.is_dir() for found in sorted(path.rglob(FAULTS_CSV))]


def main_machine(rows: Sequence[Row]) -> list[Row]:
    """The rows of the machine that has most: findings compare protocols, which two machines would blur."""
    counts = Counter(row.record.machine_id for row in rows)
    return [row for row in rows if row.record.machine_id == max(counts, key=lambda name: counts[name])]


def mib(record: Record | None) -> float | None:
    """The row's peak with the inputs in it, MiB."""
    return None if record is None else record.peak_mib


def ms(record: Record | None) -> float | None:
    """The row's time, ms."""
    return None if record is None else figure(record)


def text(value: float | None, decimals: int) -> str:
    """A figure, or that there is none."""
    return "not measured" if value is None else f"{value:.{decimals}f}"


def first_peak_mib(record: Record) -> float:
    """Inputs, outputs and, backward, the gradients of one call: 4 U forward and 8 U backward, MiB."""
    shape = shape_of(record)
    held = shape.input_bytes + shape.output_bytes
    return held * (1 if record.direction == "fwd" else 2) / 2**20


def gradients_mib(record: Record) -> float:
    """The gradients of q, k and v, MiB."""
    return shape_of(record).input_bytes / 2**20


def paper_peak_mib(record: Record) -> float:
    """Mean of 20 backward calls of which each but the first finds the gradients of those before it, MiB."""
    first = first_peak_mib(record)
    later = first + gradients_mib(record)
    return (first + (_REPEATS - 1) * later) / _REPEATS + _SLOPES_MIB


def model_tflops(record: Record, *, causal: bool) -> float:
    """What the row's time would mean in TFLOP/s, with the causal mask or without it: twice the pairs."""
    flops = Work.of(record.family, shape_of(record), record.direction).min_flops * (1 if causal else 2)
    return flops / (ms(record) or float("inf")) / 1e9


def shape_of(r: Record) -> Shape:
    """The row's shape."""
    return Shape(r.batch, r.heads, r.seq_len, r.head_dim, r.value_dim, r.dtype, r.device)


def their_title(evidence: Evidence, direction: Direction) -> str:
    """The title that the README prints over its table of speed, without our suite in front."""
    return title(evidence.published("lightning2", "speed", direction, "lightning2", 512))


def _key(r: Record, first: str) -> tuple[object, ...]:
    if (r.heads, r.head_dim, r.value_dim, r.dtype, r.device) != (32, 128, 128, "bf16", "cuda"):
        return (first, r.machine_id, r.case_id, r.metric)  # of another shape: nobody asks for it
    return (first, r.metric, r.direction, r.provider, r.seq_len, r.batch)


def _fault_lines(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
        for line in lines:
            missing = [name for name in _FAULT_COLUMNS if not line.get(name)]
            if missing or not (float(line["with_ms"]) > 0 and float(line["without_ms"]) > 0):
                raise ValueError
    except (ValueError, OSError, csv.Error):
        raise UsageError(f"{_shown(path)} is not what `{FAULTS_COMMAND}` writes: make it anew") from None
    return lines


def _shown(path: Path) -> str:
    full, here = path.resolve(), Path.cwd()
    return (full.relative_to(here) if full.is_relative_to(here) else full).as_posix()
