"""What a busy machine does to rows: is any that is `ok` far from the figure of a quiet one?

    OMP_NUM_THREADS=2 python benchmarks/busy_machine.py results/cpu/busy-machine.csv

Measures 40 small cases on the CPU as `lbench speed` does: quiet, then with processes that compute beside
them, for each of --loads, and quiet again. A load is in processors: 4 is four processes that never rest, 0.2
one that computes a fifth of the time. A row of the CSV is one case under one load: its median, how far it is
off the quiet one (``off_percent``; blank if no quiet row of it is `ok`), and what its row says of foreign
load. ``others_percent`` is the share of the processors that processes outside of this script used meanwhile:
quiet is as quiet as that. The CSV is written after each sweep. Lines on the screen count rows and give, for
each load, the largest deviation of a row that is `ok`.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rows import write_rows

from lightning_bench.case import Case, Shape
from lightning_bench.machine import describe_machine
from lightning_bench.machine.processors import ForeignUse, Processors
from lightning_bench.record import Record, ResultFile
from lightning_bench.run.plan import Plan, with_providers
from lightning_bench.run.progress import QuietWatcher
from lightning_bench.run.sweep import run_sweep
from lightning_bench.suite import Limits

PROVIDERS = ("lightning2-torch", "lightning2-no-decay-torch", "sdpa-flash", "sdpa-math", "retention-torch")
LENGTHS = (32, 64, 128, 256)
LIMITS = Limits(time_limit_s=60.0, sample_limit_s=0.1, min_samples=20, max_samples=100, ci_percent=2.0)
CASES = tuple(
    Case(Shape(1, 4, n, 64, 64, "fp32", "cpu"), provider, direction)
    for n in LENGTHS
    for provider in PROVIDERS
    for direction in ("fwd", "bwd")
)

# A share of each tenth of a second is spent computing.
COMPUTES = """
import sys, time
share = float(sys.argv[1])
while True:
    begin = time.monotonic()
    while time.monotonic() - begin < 0.1 * share:
        pass
    time.sleep(0.1 * (1 - share))
"""


@contextmanager
def beside(load: float) -> Iterator[None]:
    """Use so many processors, as far as there are any."""
    shares = [1.0] * int(load) + ([load % 1] if load % 1 else [])
    processes = [subprocess.Popen([sys.executable, "-c", COMPUTES, str(share)]) for share in shares]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measured(load: float) -> tuple[list[Record], float]:
    """Return the rows of all cases beside a load, and the processors' share, %, that others used."""
    plan = Plan("busy", "speed", "lbench", LIMITS, describe_machine("cpu"), "cpu", CASES)
    processors = Processors()
    with beside(load), tempfile.TemporaryDirectory() as folder:
        first = processors.times(fresh=True)
        with ResultFile(Path(folder) / "rows.csv") as file:
            records = run_sweep(with_providers(plan), file, QuietWatcher()).records
        last = processors.times(fresh=True)
    if first is None or last is None:
        return records, math.nan
    return records, 100 * ForeignUse.between(first, last, processors.count).foreign / processors.count


def quiet_medians(sweeps: Sequence[Sequence[Record]]) -> dict[str, float]:
    """Return the geometric mean of each case's quiet medians, ms, of rows that are `ok`."""
    times: dict[str, list[float]] = {}
    for record in (record for sweep in sweeps for record in sweep):
        if record.median_ms is not None and record.status == "ok":
            times.setdefault(record.case_id, []).append(record.median_ms)
    return {case: math.exp(sum(map(math.log, found)) / len(found)) for case, found in times.items()}


def row_of(load: float, record: Record, quiet_ms: Mapping[str, float], others: float) -> dict[str, object]:
    """Return a line of the CSV."""
    quiet = quiet_ms.get(record.case_id)
    off = "" if quiet is None or record.median_ms is None else 100 * (record.median_ms / quiet - 1)
    shares = ("foreign_cpu_percent", "cpu_steal_percent", "cpu_wait_percent", "cpu_pressure_percent")
    return {
        "load": f"{load:g}",
        "case_id": record.case_id,
        "status": record.status,
        "median_ms": _short(record.median_ms),
        "call_ms": _short(record.call_ms),
        "quiet_ms": _short(quiet),
        "off_percent": off if off == "" else f"{off:.1f}",
        **{name: _short(getattr(record, name)) for name in (*shares, "run_queue")},
        "others_percent": f"{others:.1f}",
        "reason": record.reason,
        "threads": _threads(),
        "time_utc": record.time_utc,
        "harness_commit": record.harness_commit,
        "machine_id": record.machine_id,
    }


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}"


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def summary(rows: Sequence[Mapping[str, object]]) -> Iterator[str]:
    """Yield a line for each load in order: rows by status, and the worst that is `ok`."""
    for load in dict.fromkeys(str(row["load"]) for row in rows):
        its = [row for row in rows if row["load"] == load]
        off = {id(row): abs(float(str(row["off_percent"]))) for row in its if row["off_percent"] != ""}
        ok = [off[id(row)] for row in its if row["status"] == "ok" and id(row) in off]
        others = dict.fromkeys(str(row["others_percent"]) for row in its)
        yield (
            f"load {load}: {len(ok)} of {len(its)} ok, off by {max(ok, default=0.0):.1f} % at most, "
            f"{sum(percent > 10 for percent in ok)} by more than 10 %; all rows by "
            f"{max(off.values(), default=0.0):.0f} % at most; others used {', '.join(others)} %"
        )


def main() -> None:
    """Measure, write the CSV, print the summary."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="the CSV to write")
    parser.add_argument("--loads", default="4,1,0.2,0.1", help="processors in use, separated by commas")
    options = parser.parse_args()
    sweeps: list[tuple[float, list[Record], float]] = []
    rows: list[dict[str, object]] = []
    for load in (0.0, *map(float, options.loads.split(",")), 0.0):
        sweeps.append((load, *measured(load)))
        quiet_ms = quiet_medians([records for beside_load, records, _ in sweeps if not beside_load])
        rows = [row_of(at, record, quiet_ms, others) for at, records, others in sweeps for record in records]
        write_rows(options.out, rows)
    for line in summary(rows):
        print(line)


if __name__ == "__main__":
    main()
