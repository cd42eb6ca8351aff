"""Ceilings of a machine: the best rates that it reached, measured once and kept beside its results."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, get_type_hints

from lightning_bench.case import Dtype
from lightning_bench.errors import UsageError
from lightning_bench.machine import Machine
from lightning_bench.record.codec import Schema, csv_text, finite, read_cells, replace_file
from lightning_bench.record.row import Figure


@dataclass(frozen=True)
class Ceilings:
    """The ceilings of one dtype: copy bandwidth in GB/s, matmul rate in TFLOP/s, and the L2 in bytes."""

    gbps: float
    tflops: float
    l2_bytes: int

    def or_better(self, other: Ceilings) -> Ceilings:
        """Return the larger of each rate: a ceiling is what was reached at some time."""
        return Ceilings(max(self.gbps, other.gbps), max(self.tflops, other.tflops), self.l2_bytes)


@dataclass(frozen=True, kw_only=True)
class DeviceCeilings:
    """One row of ceilings.csv. A figure that could not be measured is None."""

    copy_gbps: Annotated[float, "copy of a large tensor, bytes read and written, GB/s (10^9)"]
    read_gbps: Annotated[Figure, "reading a large tensor, GB/s"] = None
    write_gbps: Annotated[Figure, "writing a large tensor, GB/s"] = None
    l2_gbps: Annotated[Figure, "traffic that stays within the L2, GB/s"] = None
    l2_mib: Annotated[Figure, "size of the L2, of one core's on a CPU, MiB (2^20)"] = None
    fp32_tflops: Annotated[Figure, "matmul in fp32 without TF32, TFLOP/s (10^12)"] = None
    tf32_tflops: Annotated[Figure, "matmul of fp32 in TF32, TFLOP/s; blank on a CPU"] = None
    fp16_tflops: Annotated[Figure, "matmul in fp16, TFLOP/s"] = None
    bf16_tflops: Annotated[Figure, "matmul in bf16, TFLOP/s"] = None
    launch_us: Annotated[Figure, "one of many smallest operations, called back to back, µs"] = None
    call_us: Annotated[Figure, "one smallest operation and the wait for it, µs"] = None
    threads: Annotated[int, "threads that torch used on the CPU"] = 0
    note: Annotated[str, "what could not be measured, and why"] = ""

    def of(self, dtype: Dtype) -> Ceilings:
        """Return the ceilings of cases in this dtype; fp32 may use TF32 on devices that have it.

        Raises UsageError if the matmul rate of this dtype was not measured.
        """
        fp32 = self.fp32_tflops if self.tf32_tflops is None else self.tf32_tflops
        tflops = {"fp32": fp32, "fp16": self.fp16_tflops, "bf16": self.bf16_tflops}[dtype]
        if tflops is None:
            raise UsageError(f"no matmul rate is kept for {dtype}: run `lbench ceilings --fresh`")
        return Ceilings(self.copy_gbps, tflops, int((self.l2_mib or 0) * 2**20))


_ANNOTATED = get_type_hints(DeviceCeilings, include_extras=True)
MEANINGS: dict[str, str] = {name: hint.__metadata__[0] for name, hint in _ANNOTATED.items()}
"""Every figure in the order of the file, with its meaning and unit."""


@dataclass(frozen=True)
class Kept:
    """Ceilings with the fingerprint of their machine and the time of measuring (UTC, ISO 8601)."""

    ceilings: DeviceCeilings
    machine_id: str
    time_utc: str


def kept_path(machine: Machine, root: Path = Path("results")) -> Path:
    """Return where the ceilings of this kind of device are kept: `results/h200/ceilings.csv`."""
    return root / machine.slug / "ceilings.csv"


def read_kept(path: Path, machine_id: str, threads: int | None = None) -> Kept | None:
    """Return the latest ceilings of this machine in the file, None if it has none or does not exist.

    With `threads` only those that were measured on so many. Raises UsageError if the file exists and is not
    one of ceilings.
    """
    mine = [
        cells
        for cells in _cells(path)
        if cells["machine_id"] == machine_id and threads in (None, _whole(cells.get("threads", "")))
    ]
    if not mine:
        return None
    cells = mine[-1]
    try:
        return Kept(_SCHEMA.from_cells(cells), machine_id, cells["time_utc"])
    except ValueError as error:
        raise UsageError(f"{path}: its row of {cells['time_utc']} is no row ({error}); remove it") from None


def keep(path: Path, ceilings: DeviceCeilings, machine: Machine) -> Kept:
    """Add a row to the file, after its others. Raises LbenchError if it cannot be written."""
    kept = Kept(ceilings, machine.id, datetime.now(UTC).isoformat(timespec="seconds"))
    row = {**as_row(ceilings), **asdict(machine), "machine_id": kept.machine_id, "time_utc": kept.time_utc}
    replace_file(path, csv_text(list(row), [*_cells(path), row]))
    return kept


def as_row(ceilings: DeviceCeilings) -> dict[str, str]:
    """Return the figures as cells: floats to six digits, None as a blank."""
    return _SCHEMA.cells(ceilings)


def _cells(path: Path) -> list[dict[str, str]]:
    rows = read_cells(path, advice="; give another --out")
    if path.exists() and not (rows and {"copy_gbps", "machine_id", "time_utc"} <= set(rows[0])):
        raise UsageError(f"{path} is not a file of `lbench ceilings`; give another --out")
    return rows


def _whole(cell: str) -> int | None:
    return int(cell) if cell.isdecimal() else None


_SCHEMA = Schema(DeviceCeilings, digits=6, tidy=lambda _: finite)
