"""Change points of a short series: where its level changed for good, by binary segmentation.

The point that splits a segment best is the one with the largest standardised difference of the means before
and after it; it counts where fewer than 1 % of 2,000 shufflings of the segment split as well, and then both
parts are searched (Vostrikova, Soviet Math. Dokl. 24, 1981; with the permutation test of Matteson and James,
JASA 109, 2014, as MongoDB uses it on benchmarks: Daly et al., ICPE 2020).
"""

from __future__ import annotations

import numpy as np

from lightning_bench.compare.rule import Floats

FEWEST = 3
"""Points on each side of a change; with fewer than twice as many a series has none."""
SIGNIFICANCE = 0.01
_SHUFFLES = 2000


def change_points(values: Floats) -> list[int]:
    """Indices of the first point of each new level; ``values`` are logs, so that ratios count alike."""
    rng = np.random.default_rng(0)
    found: list[int] = []

    def search(begin: int, end: int) -> None:
        part = values[begin:end]
        if len(part) < 2 * FEWEST or np.ptp(part) == 0:
            return
        score = _scores(part[None, :])[0]
        shuffled = _scores(rng.permuted(np.tile(part, (_SHUFFLES, 1)), axis=1)).max(axis=1)
        if (1 + np.sum(shuffled >= score.max() * (1 - 1e-12))) / (1 + _SHUFFLES) >= SIGNIFICANCE:
            return
        middle = begin + FEWEST + int(score.argmax())
        found.append(middle)
        search(begin, middle)
        search(middle, end)

    search(0, len(values))
    return sorted(found)


def _scores(rows: Floats) -> Floats:
    """|difference of means| · √(k(n−k)/n) at every split of each row that leaves FEWEST on both sides."""
    count = rows.shape[1]
    split = np.arange(FEWEST, count - FEWEST + 1)
    sums = np.cumsum(rows, axis=1)
    before = sums[:, split - 1] / split
    after = (sums[:, -1:] - sums[:, split - 1]) / (count - split)
    scores: Floats = np.abs(after - before) * np.sqrt(split * (count - split) / count)
    return scores
