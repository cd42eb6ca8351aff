"""How often `lbench history` finds a change in series that have none, and one that they have.

    python -m benchmarks.history_simulation results/cpu/history-simulation.csv [--series 1000] [--seed 1]

Nothing is measured: series of logs of figures are drawn, of 12, 20 and 40 points with a noise of 1 % (where a
level is drawn by day, that of the days), and judged as `lbench history` does, with a calibrated noise of 1 %.
One row per kind of series, number of points and step: the step (in units of the noise) is from the point `at`
on; `changed` is the share of series with any change, `found` that with a change within one point of it.
`before` is the share with any change by the earlier rule, which had no least magnitude and took the noise
from the differences of neighbours only.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from lightning_bench.comparison.rule import Floats
from lightning_bench.history import changes

NOISE = 0.01
POINTS = (12, 20, 40)
STEPS = (3.0, 5.0, 10.0)
COLUMNS = ("series", "points", "step", "at", "drawn", "changed", "found", "before")
PER_DAY = 4

Draw = Callable[[np.random.Generator, int], Floats]


def normal(rng: np.random.Generator, count: int) -> Floats:
    """Draw normal noise."""
    return rng.normal(0, NOISE, count)


def heavy_tails(rng: np.random.Generator, count: int) -> Floats:
    """Student's t with four degrees of freedom."""
    return rng.standard_t(4, count) * NOISE


def autocorrelated(rng: np.random.Generator, count: int) -> Floats:
    """Let neighbours be alike: autoregressive with 0.5."""
    return _sticky(rng, count, 0.5)


def very_autocorrelated(rng: np.random.Generator, count: int) -> Floats:
    """Let neighbours be very much alike: autoregressive with 0.8."""
    return _sticky(rng, count, 0.8)


def two_levels(rng: np.random.Generator, count: int) -> Floats:
    """Draw each point from one of two levels, twice the noise apart, equally often."""
    return rng.normal(0, NOISE / 10, count) + 2 * NOISE * (rng.random(count) < 0.5)


def two_levels_rare(rng: np.random.Generator, count: int) -> Floats:
    """Draw one point in seven from the other level."""
    return rng.normal(0, NOISE / 10, count) + 2.8 * NOISE * (rng.random(count) < 1 / 7)


def shared_days(rng: np.random.Generator, count: int) -> Floats:
    """Let the four points of a day share its level."""
    days = rng.normal(0, NOISE, -(-count // PER_DAY))
    return np.repeat(days, PER_DAY)[:count] + rng.normal(0, NOISE / 5, count)


NULL: tuple[Draw, ...] = (
    normal,
    heavy_tails,
    autocorrelated,
    very_autocorrelated,
    two_levels,
    two_levels_rare,
)


def _sticky(rng: np.random.Generator, count: int, share: float) -> Floats:
    noise = rng.normal(0, NOISE, count)
    for number in range(1, count):
        noise[number] = share * noise[number - 1] + np.sqrt(1 - share**2) * noise[number]
    return noise


def by_day(values: Floats) -> Floats:
    """Return one value per day, as the command takes them."""
    starts = range(PER_DAY, len(values), PER_DAY)
    return np.array([np.median(day) for day in np.split(values, starts)])


def without(values: Floats) -> list[int]:
    """Return the changes by the earlier rule."""
    noise = max(1e-3, float(np.median(np.abs(np.diff(values)))) / (0.6745 * 2**0.5))
    return changes.partition(changes.clipped(values, noise) / noise)


def rows(series: int, seed: int) -> Iterator[dict[str, object]]:
    """Yield the rows of the CSV."""
    least = float(np.log1p(2 * NOISE))
    for number, draw in enumerate((*NULL, shared_days)):
        for count in POINTS:
            days = draw is shared_days
            points = PER_DAY * count if days else count
            rng = np.random.default_rng([seed, number, count])
            drawn = [draw(rng, points) for _ in range(series)]
            changed = [bool(changes.change_points(by_day(one) if days else one, least)) for one in drawn]
            yield {
                "series": draw.__name__,
                "points": points,
                "drawn": series,
                "changed": f"{np.mean(changed):.3f}",
                "before": f"{np.mean([bool(without(one)) for one in drawn]):.3f}",
            }
    for step in STEPS:
        for count in POINTS:
            for at in (count // 2, count - changes.FEWEST):
                rng = np.random.default_rng([seed, int(step), count, at])
                found = []
                for _ in range(series):
                    values = normal(rng, count) + step * NOISE * (np.arange(count) >= at)
                    found.append(any(abs(one - at) <= 1 for one in changes.change_points(values, least)))
                yield {
                    "series": "normal",
                    "points": count,
                    "step": step,
                    "at": at,
                    "drawn": series,
                    "found": f"{np.mean(found):.3f}",
                }


def main() -> None:
    """Simulate and write the CSV."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--series", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with options.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows(options.series, options.seed))


if __name__ == "__main__":
    main()
