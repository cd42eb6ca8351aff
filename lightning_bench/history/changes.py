"""Change points of a short series: the points at which its level changed for good.

Of all ways to cut the series into levels of at least three points, the one with the smallest sum of squared
distances from the means of the levels, in units of the noise, and of a penalty of 6·log n per change: optimal
partitioning (Jackson et al., IEEE Signal Process. Lett. 12, 2005; Killick et al., PELT, JASA 107, 2012). A
point farther than four times the noise from the median of itself and its two neighbours counts as four times
the noise away, so that one disturbed run is no level.

Then levels are joined that do not differ enough: by the least magnitude and by twice the noise, with three
quarters of the points of either level, and at least three, on its own side of the middle between both. So
runs that are alike by chance, since their noise is correlated or has two levels itself, are no change.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from lightning_bench.comparison.rule import Floats

FEWEST = 3
"""Minimum number of points of a level; a series with fewer than twice as many has no change."""
_PENALTY = 6.0
_LEAST_NOISE = 1e-3
_FARTHEST = 4.0
_NORMAL = 0.6745 * 2**0.5  # median of |difference of two| of a normal distribution, in its deviations
_AROUND = 5
_SHARE, _NORMAL_SHARE = 0.9, 1.6449  # this share of a normal distribution is within so many deviations
_OWN_SIDE = 0.75


def change_points(values: Floats, least: float = 0.0) -> list[int]:
    """Return the index of the first point of each new level.

    `values` are logs of the figures, so that equal ratios count equally; `least` is the smallest difference
    of levels, in logs, that counts.
    """
    if len(values) < 2 * FEWEST:
        return []
    noise = series_noise(values)
    return _joined(values, partition(clipped(values, noise) / noise), max(least, 2 * noise))


def series_noise(values: Floats) -> float:
    """Return the noise of a series of at least six points; a change of level hardly moves it.

    The larger of two estimates, and at least 0.1 %: the median difference of neighbours, and the distance
    from the level around each point (the median of five) that nine of ten points keep. The second sees noise
    that has two levels, where most neighbours are alike.
    """
    neighbours = float(np.median(np.abs(np.diff(values)))) / _NORMAL
    width = min(_AROUND, len(values))
    windows = np.lib.stride_tricks.sliding_window_view(values, width)
    begins = np.clip(np.arange(len(values)) - width // 2, 0, len(values) - width)
    distances = np.abs(values - np.median(windows[begins], axis=1))
    return max(_LEAST_NOISE, neighbours, float(np.quantile(distances, _SHARE)) / _NORMAL_SHARE)


def clipped(values: Floats, noise: float) -> Floats:
    """Return the series with points far from their neighbours brought nearer."""
    count = len(values)
    around = np.lib.stride_tricks.sliding_window_view(values, 3)
    medians = np.median(around[np.clip(np.arange(count) - 1, 0, count - 3)], axis=1)
    return np.clip(values, medians - _FARTHEST * noise, medians + _FARTHEST * noise)


def partition(scaled: Floats) -> list[int]:
    """Return where the levels of the best partition begin, but for the first; `scaled` is in deviations."""
    count = len(scaled)
    scaled = scaled - scaled.mean()
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


def _joined(values: Floats, changes: list[int], least: float) -> list[int]:
    """Join the two levels that differ least until all differ enough."""
    changes = list(changes)
    while changes:
        levels = np.split(values, changes)
        sizes = [_size(before, after) for before, after in pairwise(levels)]
        smallest = int(np.argmin(sizes))
        if sizes[smallest] >= least:
            break
        del changes[smallest]
    return changes


def _size(before: Floats, after: Floats) -> float:
    """Return the distance of two levels, 0 if too few points of either are on its side of the middle."""
    low, high = float(np.median(before)), float(np.median(after))
    up, middle = np.sign(high - low), (low + high) / 2
    sides = (before - middle) * up < 0, (after - middle) * up > 0
    if any(side.sum() < FEWEST or side.mean() < _OWN_SIDE for side in sides):
        return 0.0
    return abs(high - low)
