"""Ceilings of a machine: the best rates that it reached, measured once and kept beside its results."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import permutations
from pathlib import Path
from typing import Annotated, get_type_hints

from lightning_bench.case import Device, Dtype
from lightning_bench.errors import UsageError
from lightning_bench.machine import Machine
from lightning_bench.machine.mix import COPY, Mix
from lightning_bench.record.codec import Schema, csv_text, finite, read_cells, replace_file
from lightning_bench.record.row import Figure

# The bandwidths of one memory differ by less than this factor: on a CPU, whose caches hold a part and whose
# threads may be too few, by more.
_MEMORY_RATIO: dict[Device, float] = {"cuda": 1.5, "cpu": 4.0}
_NO_LESS = 0.8  # what must be at least as fast, with the noise of two measurements


@dataclass(frozen=True)
class Ceilings:
    """The ceilings of one dtype: bandwidth in GB/s, matmul rate in TFLOP/s, and the L2 in bytes.

    The bandwidth is that of a stream with this mix of reads and writes; without a mix, that of a copy.
    """

    gbps: float
    tflops: float
    l2_bytes: int
    mix: Mix | None = None

    def or_better(self, other: Ceilings) -> Ceilings:
        """Return the larger of each rate: a ceiling is what was reached at some time."""
        return replace(self, gbps=max(self.gbps, other.gbps), tflops=max(self.tflops, other.tflops))

    @property
    def bandwidth_of(self) -> str:
        """What has the bandwidth, as rows say it: `3:1` or `copy`."""
        return str(self.mix or COPY)


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

    def or_better(self, other: DeviceCeilings) -> DeviceCeilings:
        """Return the better of each figure: the higher rate, the shorter time."""
        better = {
            name: best(mine, theirs)
            for endings, best in (((("_gbps", "_tflops")), max), (("_us",), min))
            for name, mine in vars(self).items()
            if name.endswith(endings) and mine is not None and (theirs := getattr(other, name)) is not None
        }
        return replace(self, **better)


def contradictions(ceilings: DeviceCeilings, device: Device) -> list[str]:
    """Return a sentence for each pair of ceilings of which at least one is not what the device reaches."""
    found: list[str] = []

    def expect(low: str, factor: float, high: str) -> None:
        """Note if `high` is not at least `factor` times `low`."""
        less, more = getattr(ceilings, low), getattr(ceilings, high)
        if less is not None and more is not None and more < factor * less:
            found.append(f"{high} is {more:.4g} beside {low} of {less:.4g}")

    memory = ("copy_gbps", "read_gbps", "write_gbps")
    for low, high in permutations(memory, 2):
        expect(low, 1 / _MEMORY_RATIO[device], high)
    for low in memory:
        expect(low, _NO_LESS, "l2_gbps")
    if device == "cuda":
        expect("fp32_tflops", _NO_LESS, "tf32_tflops")
        expect("fp32_tflops", _NO_LESS, "fp16_tflops")
    expect("launch_us", _NO_LESS, "call_us")
    return found


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
