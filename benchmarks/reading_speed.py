"""How long `lbench` takes to read result files: a comparison of 2 × 20,000 cells, reports, the help.

Run in the repository root, on any machine:

    python benchmarks/reading_speed.py results/cpu/reading-speed.csv [--python OTHER/.venv/bin/python]

`--python` times the checkout that this interpreter has installed. Every command runs in a new process, the
commands take turns, and a bare `import pandas` among them is the floor of the same minutes. Bytecode is kept,
as that of an installed package is, whatever PYTHONDONTWRITEBYTECODE says. The CSV has one
row per command: seconds by the wall clock, median and minimum, and minimum seconds of user time, which other
processes on the machine change less; the largest resident set, MiB (2^20), at least that of this script; and
the bar, in seconds by the wall clock on two idle cores.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rows import made_up_record, write_rows

from lightning_bench.record import Record, ResultFile

CELLS = 20_000
SAMPLES = 30
REPORTED = Path("results/h200/paper-speed.csv").resolve()
DRAWN = REPORTED.parent
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
BASE = made_up_record(
    label="Lightning Attention-2",
    layout="bhnd",
    provider_version="0.1.0",
    provider_config="BLOCK=64",
    dtype="bf16",
    heads=16,
    head_dim=128,
    value_dim=128,
    device="cuda",
    device_name="GPU",
    harness_version="0.1.0",
    machine_id="reading",
    time_utc="2026-01-01T00:00:00+00:00",
)


def write_side(path: Path, seed: int) -> None:
    """Write a CSV of 20,000 cells with 30 samples each, whose median is 1 ms."""
    rng = np.random.default_rng(seed)
    with ResultFile(path) as file:
        for seq_len in range(1, CELLS + 1):
            times = np.exp(rng.normal(0, 0.01, SAMPLES))
            low, median, high = (float(ms) for ms in np.percentile(times, [20, 50, 80]))
            spread = {"p20_ms": low, "p80_ms": high, "ci_low_ms": low, "ci_high_ms": high}
            figures = {"tflops": seq_len / median, "gbps": 3.0 / median, "sm_clock_mhz": 1980.0}
            case_id = f"lightning2/fwd/b1-h16-n{seq_len}-d128-e128-bf16-cuda"
            values = {"case_id": case_id, "seq_len": seq_len, "samples": SAMPLES, "median_ms": median}
            record = Record(**vars(BASE) | values | spread | figures)
            file.append_samples(record, {"samples_ms": times, "turns": [5] * (SAMPLES // 5)})
            file.append(record)


def timed(command: Sequence[str]) -> tuple[float, float, float]:
    """Run a command without its output. Return wall seconds, user seconds and the resident set, MiB."""
    begin = time.monotonic()
    with open(os.devnull, "w") as nowhere:
        files = [(os.POSIX_SPAWN_DUP2, nowhere.fileno(), number) for number in (1, 2)]
        process = os.posix_spawn(command[0], command, ENVIRONMENT, file_actions=files)
        _, status, usage = os.wait4(process, 0)
    if code := os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{' '.join(command)} ended with {code}")
    return time.monotonic() - begin, usage.ru_utime, usage.ru_maxrss / 2**10


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="the CSV to write")
    parser.add_argument("--python", default=sys.executable, help="the interpreter of the checkout to time")
    parser.add_argument("--repeats", type=int, default=5, help="times that each command runs")
    given = parser.parse_args()
    lbench = [given.python, "-P", "-m", "lightning_bench"]
    with tempfile.TemporaryDirectory(prefix="reading-speed-") as folder:
        sides = [Path(folder) / f"{name}.csv" for name in ("base", "head")]
        for seed, path in enumerate(sides):
            write_side(path, seed)
        commands: dict[str, tuple[list[str], float | None]] = {
            "import pandas": ([given.python, "-c", "import pandas"], None),
            f"compare 2 x {CELLS} cells": ([*lbench, "compare", *map(str, sides)], 5.0),
            f"report {REPORTED.name}": ([*lbench, "report", str(REPORTED)], 1.2),
            f"report results/{DRAWN.name} --out DIR": (
                [*lbench, "report", str(DRAWN), "--out", str(Path(folder) / "report")],
                15.0,
            ),
            "--help": ([*lbench, "--help"], 0.4),
        }
        taken: dict[str, list[tuple[float, float, float]]] = {name: [] for name in commands}
        timed(commands["--help"][0])  # which compiles
        for _ in range(given.repeats):
            for name, (command, _) in commands.items():
                taken[name].append(timed(command))
    rows = []
    for name, (_, bar) in commands.items():
        wall, user, resident = np.array(taken[name]).T
        rows.append(
            {
                "command": name,
                "wall_median_s": f"{np.median(wall):.3f}",
                "wall_min_s": f"{wall.min():.3f}",
                "user_min_s": f"{user.min():.3f}",
                "resident_mib": f"{resident.max():.0f}",
                "bar_s": "" if bar is None else bar,
                "repeats": given.repeats,
                "cores": os.cpu_count(),
            }
        )
        print(rows[-1])
    write_rows(given.out, rows)


if __name__ == "__main__":
    main()
