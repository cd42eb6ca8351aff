"""Evidence for findings on the published tables: rows of both sides by cell, and the files they are from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_bench.case import Direction
from lightning_bench.errors import UsageError
from lightning_bench.families.work import Work
from lightning_bench.record import Record, Row, latest_by
from lightning_bench.record.codec import Schema, read_cells
from lightning_bench.record.discover import shown_path
from lightning_bench.report.tables.figures import figure, title

FAULTS_CSV = "published-faults.csv"
FAULTS_COMMAND = f"python benchmarks/published_faults.py results/h200/{FAULTS_CSV}"
PUBLISHED_LENGTHS = tuple(512 * 2**i for i in range(7))
"""Sequence lengths of the tables of the lightning-attention READMEs."""
PUBLISHED_DIRECTIONS: tuple[Direction, Direction] = ("fwd", "bwd")
"""Their directions."""

_REPEATS = 20  # of the published memory script
_SLOPES_MIB = 512 / 2**20  # 4 bytes per head for the slopes: one block of the allocator


@dataclass(frozen=True)
class Fault:
    """One call with and without a fault of a published script, timed in turns: a row of `FAULTS_CSV`."""

    fault: str
    provider: str
    direction: str
    seq_len: str
    with_ms: float
    without_ms: float
    device_name: str

    @property
    def added_ms(self) -> float:
        """What the fault adds, ms."""
        return self.with_ms - self.without_ms

    @property
    def ratio(self) -> float:
        """The time with the fault over that without it."""
        return self.with_ms / self.without_ms


class Evidence:
    """Rows by what they measure; every row that is asked for becomes a source of the finding that asked."""

    def __init__(self, published: Iterable[Row], measured: Iterable[Row], faults: Iterable[Path]) -> None:
        self._published = {_key(row.record, row.record.suite): row for row in published}
        self._measured = latest_by(measured, lambda record: _key(record, record.protocol))
        self._faults = [(path, fault) for path in faults for fault in _read_faults(path)]
        self.used: dict[str, None] = {}

    def published(
        self, suite: str, metric: str, direction: Direction, provider: str, n: int, *, batch: int = 4
    ) -> Record:
        """Return a published row. Raises KeyError if there is none."""
        return self._use(self._published[suite, metric, direction, provider, n, batch])

    def here(
        self, protocol: str, metric: str, direction: Direction, provider: str, n: int, *, batch: int = 4
    ) -> Record | None:
        """Return the latest row that measured the cell of the published shape here; None without a figure."""
        row = self._measured.get((protocol, metric, direction, provider, n, batch))
        return self._use(row) if row is not None and row.record.worked else None

    def faults(self, name: str) -> list[Fault]:
        """Return what the script of `FAULTS_COMMAND` measured of one fault."""
        found = [(path, fault) for path, fault in self._faults if fault.fault == name]
        self.used |= dict.fromkeys(shown_path(path) for path, _ in found)
        return [fault for _, fault in found]

    def _use(self, row: Row) -> Record:
        self.used[row.source] = None
        return row.record


def faults_in(paths: Sequence[str | Path]) -> list[Path]:
    """Return the files of `FAULTS_COMMAND` in these folders and below."""
    return [found for path in map(Path, paths) if path.is_dir() for found in sorted(path.rglob(FAULTS_CSV))]


def main_machine(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of the machine that has most: findings compare protocols of one machine."""
    counts = Counter(row.record.machine_id for row in rows)
    return [row for row in rows if row.record.machine_id == max(counts, key=lambda name: counts[name])]


def mib(record: Record | None) -> float | None:
    """Return the row's peak with the inputs in it, MiB; None without a row or figure."""
    return None if record is None else record.peak_mib


def ms(record: Record | None) -> float | None:
    """Return the row's time, ms; None without a row or figure."""
    return None if record is None else figure(record)


def first_peak_mib(record: Record) -> float:
    """Return inputs, outputs and, backward, the gradients of one call in MiB: 4 U forward, 8 U backward."""
    shape = record.shape
    held = shape.input_bytes + shape.output_bytes
    return held * (1 if record.direction == "fwd" else 2) / 2**20


def gradients_mib(record: Record) -> float:
    """Return the size of the gradients of q, k and v, MiB."""
    return record.shape.input_bytes / 2**20


def paper_peak_mib(record: Record) -> float:
    """Return the mean peak of 20 backward calls, each but the first with earlier gradients held, MiB."""
    first = first_peak_mib(record)
    later = first + gradients_mib(record)
    return (first + (_REPEATS - 1) * later) / _REPEATS + _SLOPES_MIB


def model_tflops(record: Record, *, causal: bool) -> float:
    """Return the rate that the row's time implies, TFLOP/s; without the mask the work is twice as much."""
    flops = Work.of(record.family, record.shape, record.direction).min_flops * (1 if causal else 2)
    return flops / (ms(record) or float("inf")) / 1e9


def their_title(evidence: Evidence, direction: Direction) -> str:
    """Return the title that the README prints over its table of speed, without our suite in front."""
    return title(evidence.published("lightning2", "speed", direction, "lightning2", 512))


def _key(r: Record, first: str) -> tuple[object, ...]:
    if (r.heads, r.head_dim, r.value_dim, r.dtype, r.device) != (32, 128, 128, "bf16", "cuda"):
        return (first, r.machine_id, r.case_id, r.metric)  # of another shape: nobody asks for it
    return (first, r.metric, r.direction, r.provider, r.seq_len, r.batch)


def _read_faults(path: Path) -> list[Fault]:
    schema = Schema(Fault, digits=6)
    try:
        faults = [schema.from_cells(cells) for cells in read_cells(path)]
        if not all(
            all(vars(fault).values()) and min(fault.with_ms, fault.without_ms) > 0 for fault in faults
        ):
            raise ValueError("a cell is blank or a time is not positive")
    except (ValueError, UsageError):
        raise UsageError(f"{shown_path(path)} is not what `{FAULTS_COMMAND}` writes: run it again") from None
    return faults
