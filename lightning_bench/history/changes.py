"""Change points of a short series: the points at which its level changed for good.

Of all ways to cut the series into levels of at least three points, the one with the smallest sum of squared
distances from the means of the levels, in units of the noise, and of a penalty of 6·log n per change: optimal
partitioning (Jackson et al., IEEE Signal Process. Lett. 12, 2005; Killick et al., PELT, JASA 107, 2012). The
noise is the median absolute difference of neighbours, which a change of level hardly moves, and at least
0.1 %. A point farther than four times the noise from the median of itself and its two neighbours counts as
four times the noise away, so that one disturbed run is no level.
"""

from __future__ import annotations

import numpy as np

from lightning_bench.compare.rule import Floats

FEWEST = 3
"""Minimum number of points of a level; a series with fewer than twice as many has no change."""
_PENALTY = 6.0
_LEAST_NOISE = 1e-3
_FARTHEST = 4.0
_NORMAL = 0.6745 * 2**0.5  # median of |difference of two| of a normal distribution, in its deviations


def change_points(values: Floats) -> list[int]:
    """Return the index of the first point of each new level.

    `values` are logs of the figures, so that equal ratios count equally.
    """
    count = len(values)
    if count < 2 * FEWEST:
        return []
    noise = max(_LEAST_NOISE, float(np.median(np.abs(np.diff(values)))) / _NORMAL)
    around = np.lib.stride_tricks.sliding_window_view(values, 3)
    medians = np.median(around[np.clip(np.arange(count) - 1, 0, count - 3)], axis=1)
    values = np.clip(values, medians - _FARTHEST * noise, medians + _FARTHEST * noise)
    scaled = (values - values.mean()) / noise
    sums = np.r_[0.0, np.cumsum(scaled)]
    squares = np.r_[0.0, np.cumsum(np.square(scaled))]
    penalty = _PENALTY * np.log(count)
    best = np.full(count + 1, np.inf)
    best[0] = -penalty
    last = np.zeros(count + 1, dtype=int)
    for end in range(FEWEST, count + 1):
        begins = np.arange(0, end - FEWEST + 1)
        costs = squares[end] - squares[begins] - np.square(sums[end] - sums[begins]) / (end - begins)
        totals = best[begins] + costs + penalty
        last[end] = int(totals.argmin())
        best[end] = totals[last[end]]
    found = []
    end = count
    while end > 0:
        end = int(last[end])
        found.append(end)
    return sorted(found)[1:]
