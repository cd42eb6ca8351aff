"""How noisy today is: the spread of the changes over cells that are alike. Pure functions of arrays.

It is taken from neighbours, cells of one provider and direction in order of their shapes: a kernel that got
slower in all of them, or in all long ones, hardly moves the differences of neighbours.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence

import numpy as np

from lightning_bench.comparison.rule import Floats

FEWEST = 5
"""Fewer differences of neighbours tell nothing of the noise."""
_NORMAL = 0.6745  # median of the absolute value of a normal distribution, in its deviations


def todays_scale(log_ratios: Floats, ses: Floats, lines: Sequence[tuple[Hashable, Sequence[int]]]) -> Floats:
    """Return by how much noisier each entry is today than its standard error says; at least 1.

    Each line is an owner, such as a provider, and the indices of neighbours in order. The scale of an entry
    is the larger of that of all lines and that of its owner's, by the median, so that changes of fewer than
    half of the neighbours do not count as noise.
    """
    found: defaultdict[Hashable, list[float]] = defaultdict(list)
    for owner, line in lines:
        members = np.asarray(line)
        steps = np.abs(np.diff(log_ratios[members]))
        expected = np.hypot(ses[members[:-1]], ses[members[1:]])
        found[owner] += (steps[expected > 0] / expected[expected > 0]).tolist()
    everyone = _scale([step for steps in found.values() for step in steps])
    scales = np.ones(len(log_ratios))
    for owner, line in lines:
        scales[np.asarray(line)] = max(everyone, _scale(found[owner]))
    return scales


def _scale(steps: Sequence[float]) -> float:
    if len(steps) < FEWEST:
        return 1.0
    return max(1.0, float(np.median(steps)) / _NORMAL)
