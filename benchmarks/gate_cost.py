"""What judging costs: the share of a sweep's time that each phase takes.

    OMP_NUM_THREADS=2 python benchmarks/gate_cost.py results/cpu/gate-cost.csv

Runs suites in workers as `lbench speed` does, --repeats times into files that are thrown away, and writes a
row for each suite and phase: the median of its seconds, and of its percent of the sweep. ``oracle`` and
``check`` are the judge's; ``warm-up`` and ``samples`` are the measurement, in which judged calls are taken.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from rows import write_rows

from lightning_bench.case import Device
from lightning_bench.machine import describe_machine
from lightning_bench.record import ResultFile
from lightning_bench.run.plan import Plan
from lightning_bench.run.progress import QuietWatcher
from lightning_bench.run.sweep import Summary, run_sweep
from lightning_bench.suite import load_suite


def sweep(name: str, device: Device) -> Summary:
    """Run a suite once; its rows are not kept."""
    plan = Plan.of(load_suite(name), "speed", describe_machine(device))
    with tempfile.TemporaryDirectory() as folder, ResultFile(Path(folder) / "rows.csv") as file:
        return run_sweep(plan, file, QuietWatcher())


def rows_of(name: str, device: Device, summaries: list[Summary]) -> list[dict[str, object]]:
    """Return a row for each phase, the longest first."""
    machine = describe_machine(device)
    phases = {phase for summary in summaries for phase in summary.phases}
    rows: list[dict[str, object]] = []
    for phase in phases:
        seconds = [summary.phases.get(phase, 0.0) for summary in summaries]
        percent = [100.0 * s / summary.seconds for s, summary in zip(seconds, summaries, strict=True)]
        rows.append(
            {
                "suite": name,
                "phase": phase,
                "seconds": f"{statistics.median(seconds):.3f}",
                "percent": f"{statistics.median(percent):.2f}",
                "cases": len(summaries[0].records),
                "repeats": len(summaries),
                "device_name": machine.device_name,
                "torch": machine.torch,
                "harness_commit": machine.harness_commit,
            }
        )
    return sorted(rows, key=lambda row: -float(str(row["seconds"])))


def main() -> None:
    """Measure, print, write the CSV."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="the CSV to write")
    parser.add_argument("--suites", nargs="+", default=["quick", "systems-quick"])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    rows: list[dict[str, object]] = []
    for name in args.suites:
        new = rows_of(name, args.device, [sweep(name, args.device) for _ in range(args.repeats)])
        rows += new
        for row in new:
            print(*(row[key] for key in ("suite", "phase", "seconds", "percent")), flush=True)
        write_rows(args.out, rows)


if __name__ == "__main__":
    main()
