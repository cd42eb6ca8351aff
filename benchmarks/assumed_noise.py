"""How often `lbench compare` is wrong with one process a side, where the noise between processes is assumed.

    python -m benchmarks.assumed_noise results/cpu/assumed-noise.csv [--sweeps 500] [--seed 1]

Nothing is measured. A sweep is a comparison of equal code, one process a side, drawn from the models of noise
of `benchmarks/verdict_simulation.py` and judged by `compare_sides`. `times` is the standard deviation of a
process in units of what is assumed on a GPU, 1 %. One row per model, `times` and number of cells: the share
of sweeps with any false SLOWER, by cells and by overall verdicts.

No rule can keep these rates low in all models: a disturbed process, a kernel that tunes itself and does not
say so, and a drift between the two processes look like changes. docs/compare.md says in which they are low.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.rows import made_up_record
from benchmarks.verdict_simulation import NOISES, PER_PROVIDER, SPREAD, THRESHOLD, Draw
from lightning_bench.comparison.judge import compare_sides
from lightning_bench.comparison.noise import ASSUMED
from lightning_bench.comparison.rule import Floats
from lightning_bench.comparison.sides import Run, Side
from lightning_bench.record import Record

CELLS = (14, 84)
TIMES = (0.5, 1.0, 3.0)
COLUMNS = ("noise", "times", "cells", "sweeps", "false_by_cells", "false_by_overall")
_WITHIN, _WITHIN_DF = 1e-8, 9.0


def records(cells: int, time_utc: str) -> list[Record]:
    """Return rows of providers with seven lengths each, forward and backward."""
    rows = []
    for number in range(cells):
        line, length = divmod(number, PER_PROVIDER)
        provider, direction = f"p{line // 2}", "bwd" if line % 2 else "fwd"
        case: dict[str, Any] = {"provider": provider, "direction": direction, "seq_len": 64 << length}
        name = f"{provider}/{direction}/n{length}"
        rows.append(made_up_record(case_id=name, device="cuda", time_utc=time_utc, **case))
    return rows


def sweep(rows: tuple[list[Record], list[Record]], figures: Floats) -> tuple[bool, bool]:
    """Return whether a cell and whether an overall verdict is SLOWER; `figures` are logs, [cells, 2]."""
    sides = [
        Side(
            name,
            [Run(row, Path(name), log, _WITHIN, _WITHIN_DF) for row, log in zip(of, logs, strict=True)],
            [],
        )
        for name, of, logs in zip(("base", "head"), rows, figures.T.tolist(), strict=True)
    ]
    found = compare_sides(*sides, threshold=THRESHOLD)
    return bool(found.failing), bool(found.failing_overall)


def rates(draw: Draw, times: float, cells: int, sweeps: int, rng: np.random.Generator) -> tuple[float, float]:
    """Return the shares of sweeps with a false SLOWER of a cell and of an overall verdict."""
    base = records(cells, "2026-01-01T00:00:00+00:00")
    rows = base, [replace(row, time_utc="2026-01-02T00:00:00+00:00") for row in base]
    figures = draw(rng, (sweeps, cells, 2)) * (times * ASSUMED["cuda"].process / SPREAD)
    found = np.array([sweep(rows, one) for one in figures])
    return float(found[:, 0].mean()), float(found[:, 1].mean())


def measured(sweeps: int, seed: int) -> Iterator[dict[str, object]]:
    """Yield the rows of the CSV."""
    for number, draw in enumerate(NOISES):
        for times in TIMES:
            for cells in CELLS:
                rng = np.random.default_rng([seed, number, cells])
                by_cells, by_overall = rates(draw, times, cells, sweeps, rng)
                yield {
                    "noise": draw.__name__,
                    "times": times,
                    "cells": cells,
                    "sweeps": sweeps,
                    "false_by_cells": f"{by_cells:.4f}",
                    "false_by_overall": f"{by_overall:.4f}",
                }


def main() -> None:
    """Simulate and write the CSV."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--sweeps", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with options.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in measured(options.sweeps, options.seed):
            writer.writerow(row)
            file.flush()


if __name__ == "__main__":
    main()
