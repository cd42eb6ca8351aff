"""DeviceCeilings: what this machine reached at its best, measured once and kept beside its results."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from lightning_bench.case import Dtype
from lightning_bench.errors import LbenchError, UsageError
from lightning_bench.machine import Machine

Figure = float | None


@dataclass(frozen=True)
class Ceilings:
    """The ceilings of one dtype: copy bandwidth in GB/s, matmul rate in TFLOP/s, and the L2 in bytes."""

    gbps: float
    tflops: float
    l2_bytes: int


@dataclass(frozen=True, kw_only=True)
class DeviceCeilings:
    """A row of ceilings.csv. A figure that could not be measured here is None."""

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
        """The pair that a case in this dtype is held against; fp32 may use TF32 where there is TF32.

        Raises UsageError where the matmul rate of this dtype is not known.
        """
        fp32 = self.fp32_tflops if self.tf32_tflops is None else self.tf32_tflops
        tflops = {"fp32": fp32, "fp16": self.fp16_tflops, "bf16": self.bf16_tflops}[dtype]
        if tflops is None:
            raise UsageError(f"no matmul rate is kept for {dtype}: run `lbench ceilings --fresh`")
        return Ceilings(self.copy_gbps, tflops, int((self.l2_mib or 0) * 2**20))


_ANNOTATED = get_type_hints(DeviceCeilings, include_extras=True)
MEANINGS: dict[str, str] = {name: hint.__metadata__[0] for name, hint in _ANNOTATED.items()}
"""Every figure with its meaning and unit, in the order of the file."""


@dataclass(frozen=True)
class Kept:
    """Ceilings with the fingerprint of their machine and when they were measured (UTC, ISO 8601)."""

    ceilings: DeviceCeilings
    machine_id: str
    time_utc: str


def kept_path(machine: Machine, root: Path = Path("results")) -> Path:
    """Where the ceilings of this kind of device lie: ``results/h200/ceilings.csv``."""
    return root / machine.slug / "ceilings.csv"


def read_kept(path: Path, machine_id: str, threads: int | None = None) -> Kept | None:
    """The latest ceilings of this machine in the file, or None where it has none or is not there.

    With ``threads`` those alone that were measured on so many. Raises UsageError for a file that is there
    and is not one of ceilings.
    """
    mine = [
        row
        for row in _rows(path)
        if row["machine_id"] == machine_id and threads in (None, _whole(row.get("threads")))
    ]
    if not mine:
        return None
    row = mine[-1]
    try:
        values = {field.name: _parse(field.name, row.get(field.name, "")) for field in fields(DeviceCeilings)}
        return Kept(DeviceCeilings(**values), machine_id, row["time_utc"])
    except (TypeError, ValueError) as error:
        raise UsageError(f"{path}: its row of {row['time_utc']} is no row ({error}); remove it") from None


def keep(path: Path, ceilings: DeviceCeilings, machine: Machine) -> Kept:
    """Add a row to the file, after those that are there. LbenchError where it cannot be written."""
    kept = Kept(ceilings, machine.id, datetime.now(UTC).isoformat(timespec="seconds"))
    row = {**as_row(ceilings), **asdict(machine), "machine_id": kept.machine_id, "time_utc": kept.time_utc}
    rows = [*_rows(path), row]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(row), restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    fresh = path.with_suffix(".csv.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_text(text.getvalue(), encoding="utf-8", newline="\n")
        fresh.replace(path)  # whole or not at all
    except OSError as error:
        raise LbenchError(f"cannot write {path}: {error.strerror}; give another --out") from error
    return kept


def as_row(ceilings: DeviceCeilings) -> dict[str, str]:
    """The figures as cells: floats to six digits, what is None blank."""
    return {
        name: "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
        for name, value in asdict(ceilings).items()
    }


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path} ({error}); give another --out") from error
    rows = list(csv.DictReader(io.StringIO(text)))
    columns = set(rows[0]) if rows else set()
    if not {"copy_gbps", "machine_id", "time_utc"} <= columns:
        raise UsageError(f"{path} is not a file of `lbench ceilings`; give another --out")
    return rows


def _whole(cell: str | None) -> int | None:
    return int(cell) if cell and cell.isdecimal() else None


def _parse(name: str, cell: str | None) -> Any:
    text = cell or ""
    if name == "note":
        return text
    if name == "threads":
        return int(text or 0)
    return float(text) if text else None
