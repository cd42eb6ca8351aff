"""How often the rule of `lbench compare` is wrong in simulated noise: twelve models, 1 to 2000 cells.

    python -m benchmarks.verdict_simulation results/cpu/verdict-simulation.csv [--sweeps 2500] [--seed 1]

Nothing is measured. A sweep is a comparison of equal code: figures of processes are drawn from a model of
noise and judged by the functions that `lbench compare` calls. One row per model, design and number of cells:
the share of sweeps with any false SLOWER, by cells, by overall verdicts, and by either. The designs are
passes (both sides in turns) and runs (folders of CSVs, such as 2 against 12).

The noise of a process is 5 %, far beyond the threshold of 3 %: where it is far below, the threshold itself
prevents most false alarms. Cells belong to providers of at most seven. Rows of kind `power` have a tenth of
that noise and one cell that is slower by 3 %: `found` is how often it is SLOWER.

The exit code is 1 if more than one sweep in a hundred raises a false SLOWER in any row.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lightning_bench.comparison import rule
from lightning_bench.comparison.rule import Floats

THRESHOLD = 0.03
SPREAD = 0.05
CELLS = (1, 2, 5, 12, 50, 200)
MANY = 2000
"""As many cells take long: in some designs only."""
SLOWER, POWER_CELLS = 0.03, 12
QUIET = 0.1
SURE, AGAIN = 0.006, 5
"""Beyond this rate chance may decide on which side of 1 % a row is: then as many times more sweeps count."""
PASSES = (2, 3, 4, 6, 8, 10, 12, 16, 24)
RUNS = ((2, 2), (2, 12), (3, 3), (4, 12), (8, 8), (12, 12))
PER_PROVIDER = 7
COLUMNS = (
    "kind",
    "noise",
    "design",
    "base",
    "head",
    "cells",
    "sweeps",
    "false_by_cells",
    "false_by_overall",
    "false_by_any",
    "found",
)

Draw = Callable[[np.random.Generator, tuple[int, ...]], Floats]
"""Figures (logs) of processes of equal code, with the shape [sweeps, cells, processes in order of time]."""


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Draw normal noise."""
    return rng.normal(0, SPREAD, shape)


def skewed(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Let processes be late and never early: gamma with shape 1."""
    return rng.standard_exponential(shape) * SPREAD


def heavy_tails(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Student's t with three degrees of freedom."""
    return rng.standard_t(3, shape) * SPREAD / 1.7


def disturbed(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Disturb one process in fifty, by 20 % on average, in quiet noise of 1 %."""
    return rng.normal(0, 0.01, shape) + (rng.random(shape) < 0.02) * rng.exponential(0.2, shape)


def two_modes(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Run every third process in a mode that is as far off as twice the noise."""
    return rng.normal(0, SPREAD, shape) + 2 * SPREAD * (rng.random(shape) < 0.3)


def two_points(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Tune every kernel to one of two configurations 10 % apart, equally often, in noise of 0.1 %."""
    return rng.normal(0, 0.001, shape) + 0.1 * (rng.random(shape) < 0.5)


def two_points_rare(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Tune to a configuration that is 60 % slower in one process of five."""
    return rng.normal(0, 0.001, shape) + 0.6 * (rng.random(shape) < 0.2)


def one_tunes(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Tune every tenth kernel to one of two configurations 30 % apart; the others are quiet."""
    tunes = np.arange(shape[1]) % 10 == 0
    return rng.normal(0, 0.005, shape) + 0.3 * (rng.random(shape) < 0.5) * tunes[:, None]


def drift(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Let all processes get slower by 20 % from first to last."""
    return rng.normal(0, SPREAD, shape) + 0.2 * np.linspace(0, 1, shape[-1])


def sticky(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Let neighbours in time be alike: autoregressive with 0.8."""
    noise = rng.normal(0, SPREAD, shape)
    for number in range(1, shape[-1]):
        noise[..., number] = 0.8 * noise[..., number - 1] + 0.6 * noise[..., number]
    return noise


def shared(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Let all cells of a process move together, and a little by themselves."""
    return rng.normal(0, SPREAD, (shape[0], 1, shape[2])) + rng.normal(0, SPREAD / 3, shape)


def unequal(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Give each cell a noise of its own, from 0.5 to 20 %."""
    return rng.normal(0, 1, shape) * np.exp(rng.uniform(np.log(0.005), np.log(0.2), (*shape[:2], 1)))


NOISES: tuple[Draw, ...] = (
    normal,
    skewed,
    heavy_tails,
    disturbed,
    two_modes,
    two_points,
    two_points_rare,
    one_tunes,
    drift,
    sticky,
    shared,
    unequal,
)


@dataclass(frozen=True)
class Design:
    """How many processes each side has, in passes or as runs of their own."""

    base: int
    head: int
    paired: bool

    @property
    def name(self) -> str:
        """What the CSV calls it."""
        return "passes" if self.paired else "runs"

    def sides(self, figures: Floats) -> tuple[Floats, Floats]:
        """Return base and head of processes in order of time: A B B A in passes, else in turns."""
        if self.paired:
            pairs = figures.reshape(*figures.shape[:-1], self.base, 2).copy()
            pairs[..., 1::2, :] = pairs[..., 1::2, ::-1]
            return pairs[..., 0], pairs[..., 1]
        order = np.argsort(np.r_[np.arange(self.base) / self.base, np.arange(self.head) / self.head])
        return figures[..., order < self.base], figures[..., order >= self.base]

    def judged(self, base: Floats, head: Floats, error_rate: float) -> rule.Flags:
        """Return which cells the rule calls SLOWER."""
        shift = rule.trimmed(head - base) if self.paired else rule.unpaired(head, base)
        return rule.decide(shift, THRESHOLD, error_rate)[0].slower


DESIGNS = (
    *(Design(passes, passes, True) for passes in PASSES),
    *(Design(base, head, False) for base, head in RUNS),
)


WITH_MANY = (Design(4, 4, True), Design(16, 16, True), Design(2, 12, False))


def alarms(
    draw: Draw, design: Design, cells: int, sweeps: int, rng: np.random.Generator
) -> tuple[rule.Flags, rule.Flags]:
    """Return which sweeps of equal code have a cell that is SLOWER, and which a provider that is."""
    by_cell, by_provider = [np.zeros(0, dtype=bool)], [np.zeros(0, dtype=bool)]
    processes = design.base + design.head
    most = max(1, 4_000_000 // (cells * processes))
    for begin in range(0, sweeps, most):
        shape = (min(most, sweeps - begin), cells, processes)
        base, head = design.sides(draw(rng, shape))
        by_cell.append(design.judged(base, head, rule.ERROR_RATE).any(axis=1))
        if cells > 1:
            means = [_means(side) for side in (base, head)]
            by_provider.append(design.judged(*means, rule.OVERALL_ERROR_RATE).any(axis=1))
        else:
            by_provider.append(np.zeros(shape[0], dtype=bool))
    return np.concatenate(by_cell), np.concatenate(by_provider)


def found(draw: Draw, design: Design, sweeps: int, rng: np.random.Generator) -> float:
    """Return how often one cell of several, slower by the threshold in a tenth of the noise, is SLOWER."""
    shape = (sweeps, POWER_CELLS, design.base + design.head)
    base, head = design.sides(QUIET * draw(rng, shape))
    head[:, 0] += np.log1p(SLOWER)
    return float(design.judged(base, head, rule.ERROR_RATE)[:, 0].mean())


def _means(side: Floats) -> Floats:
    """Return the mean over the cells of each provider; a rest of one cell goes with those before it."""
    starts = np.arange(0, side.shape[1], PER_PROVIDER)
    if len(starts) > 1 and side.shape[1] - starts[-1] == 1:
        starts = starts[:-1]
    counts = np.diff(np.r_[starts, side.shape[1]])
    means: Floats = np.add.reduceat(side, starts, axis=1) / counts[:, None]
    return means


def rows(sweeps: int, seed: int) -> Iterator[dict[str, object]]:
    """Yield the rows of the CSV; of many cells a part of the sweeps is simulated, of high rates more."""
    for draw, design in itertools.product(NOISES, DESIGNS):
        place = [seed, NOISES.index(draw), DESIGNS.index(design)]
        row: dict[str, object] = {
            "noise": draw.__name__,
            "design": design.name,
            "base": design.base,
            "head": design.head,
        }
        for cells in (*CELLS, MANY) if design in WITH_MANY else CELLS:
            count = max(500, min(sweeps, 100 * sweeps // cells))
            for again in (1, AGAIN):
                rng = np.random.default_rng([*place, cells, again])
                by_cell, by_provider = alarms(draw, design, cells, again * count, rng)
                if (by_cell | by_provider).mean() <= SURE:
                    break
            yield row | {
                "kind": "equal",
                "cells": cells,
                "sweeps": len(by_cell),
                "false_by_cells": f"{by_cell.mean():.4f}",
                "false_by_overall": f"{by_provider.mean():.4f}",
                "false_by_any": f"{(by_cell | by_provider).mean():.4f}",
            }
        share = found(draw, design, sweeps, np.random.default_rng(place))
        yield row | {"kind": "power", "cells": POWER_CELLS, "sweeps": sweeps, "found": f"{share:.4f}"}


def main() -> int:
    """Simulate, write the CSV, and say where more than one sweep in a hundred raises a false SLOWER."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--sweeps", type=int, default=2500, help="per row, fewer of many cells")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    begin = time.monotonic()
    with options.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        worst = 0.0
        for row in rows(options.sweeps, options.seed):
            writer.writerow(row)
            file.flush()
            rate = float(str(row.get("false_by_any", 0)))
            worst = max(worst, rate)
            if rate > 0.01:
                print(" ".join(str(value) for value in row.values()))
    print(f"worst {worst:.4f}, {time.monotonic() - begin:.0f} s")
    return int(worst > 0.01)


if __name__ == "__main__":
    sys.exit(main())
