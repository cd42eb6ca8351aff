"""Whether times hold in later processes: one row per cell of a sweep and of each run that measured it again.

    lbench speed paper --provider lightning2,fla-chunk,flash2,sdpa-cudnn,sdpa-flash --seq-len 512..16384 \
        --out first.csv
    lbench verify first.csv --sample 60 --out same.csv          # and other.csv, on another GPU of the kind
    python benchmarks/remeasured.py results/h200/remeasured.csv first.csv same.csv other.csv

or the same sweep again, on several GPUs:

    lbench speed paper --provider lightning2,lightning-official,flash2 --gpus 0 --out one-gpu.csv
    lbench speed paper --provider lightning2,lightning-official,flash2 --gpus all --out two-gpus.csv
    lbench verify one-gpu.csv --sample 42 --gpus 1 --out verify.csv
    python benchmarks/remeasured.py results/h200-x2/remeasured.csv one-gpu.csv two-gpus.csv verify.csv

Measures nothing: joins the CSVs that these commands wrote. ``again`` is the file of the later run. ``inside``
is 1 if the new median is in the 95 % interval that the first row states. ``gpu`` is ``same`` or ``another``.
``run_s`` and ``new_run_s`` are the seconds that both runs took, from their beginning to their last row.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from rows import write_rows

from lightning_bench.record import Record, read_records
from lightning_bench.run.verify import Repetition, verification
from lightning_bench.words import counted


def run_s(rows: Sequence[Record]) -> float:
    """Return the seconds from the beginning of the run that wrote the rows to its last row."""
    first, last = min(row.run_utc for row in rows), max(row.time_utc for row in rows)
    return (datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds()


def row_of(again: str, repetition: Repetition, seconds: tuple[float, float]) -> dict[str, object]:
    """Return the row of one cell; both runs took so many `seconds`."""
    then, now, change = repetition.then, repetition.now, repetition.change
    return {
        "again": again,
        "gpu": "same" if now.gpu_uuid == then.gpu_uuid else "another",
        "provider": then.provider,
        "direction": then.direction,
        "seq_len": then.seq_len,
        "batch": then.batch,
        "heads": then.heads,
        "head_dim": then.head_dim,
        "dtype": then.dtype,
        "processes": then.processes,
        "median_ms": then.median_ms,
        "ci_low_ms": then.ci_low_ms,
        "ci_high_ms": then.ci_high_ms,
        "between_percent": then.between_percent,
        "new_median_ms": now.median_ms,
        "new_status": now.status,
        "change_percent": "" if change is None else f"{100.0 * change:.4f}",
        "inside": int(repetition.inside),
        "run_s": seconds[0],
        "new_run_s": seconds[1],
        "device_name": then.device_name,
        "gpu_uuid": then.gpu_uuid,
        "new_gpu_uuid": now.gpu_uuid,
        "provider_version": then.provider_version,
        "torch": then.torch,
        "harness_commit": then.harness_commit,
        "time_utc": then.time_utc,
        "new_time_utc": now.time_utc,
    }


def main() -> None:
    """Join, write the CSV and print the shares."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="the CSV to write")
    parser.add_argument("first", type=Path, help="what `lbench speed` wrote")
    parser.add_argument("again", type=Path, nargs="+", help="what later runs wrote")
    args = parser.parse_args()
    first = [record for record in read_records(args.first) if record.status == "ok"]
    rows: list[dict[str, object]] = []
    for path in args.again:
        records = read_records(path)
        found = verification(first, records)
        seconds = run_s(first), run_s(records)
        rows += [row_of(path.stem, repetition, seconds) for repetition in found.repetitions]
        cells = counted(len(found.repetitions), "cell")
        print(f"{path.name}: {found.inside} of {cells} inside; changes {found.changes}; {seconds[1]:.0f} s")
    write_rows(args.out, rows)


if __name__ == "__main__":
    main()
