"""Names at the right ends of lines, apart from each other, instead of a legend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_bench.report.plots.style import TEXT_PT, Sheet

LINE_IN = 1.3 * TEXT_PT / 72
"""Height of one name, inches."""

_BESIDE = 1.07  # of the width of the axes: where names begin
_AFTER = 0.015  # between a point, the line to its name, and the name
_DARKER = 0.72  # a light color is read as a line and not as letters


@dataclass(frozen=True)
class LineEnd:
    """The last point of a line, in data coordinates, and what to write beside it."""

    name: str
    x: float
    y: float
    color: str


def name_lines(sheet: Sheet, ends: Sequence[LineEnd]) -> None:
    """Write the names beside the first axes, whose limits are set; the axes become as high as they need."""
    sheet.heights[0] = max(sheet.heights[0], LINE_IN * len(ends))
    axes = sheet.axes[0]
    ordered = sorted(ends, key=lambda end: _share(axes.get_ylim(), end.y))
    heights = spread([_share(axes.get_ylim(), end.y) for end in ordered], LINE_IN / sheet.heights[0])
    for end, height in zip(ordered, heights, strict=True):
        x, y = _share(axes.get_xlim(), end.x), _share(axes.get_ylim(), end.y)
        axes.plot(
            [x + _AFTER, _BESIDE - _AFTER],
            [y, height],
            color=end.color,
            linewidth=0.4,
            transform=axes.transAxes,
            clip_on=False,
        )
        axes.text(
            _BESIDE,
            height,
            _shown(end.name),
            va="center",
            fontsize=TEXT_PT,
            color=darker(end.color),
            transform=axes.transAxes,
            gid=f"label-{end.name}",
        )


def spread(wanted: Sequence[float], apart: float) -> list[float]:
    """Return places between 0 and 1, in order and at least `apart`, as near to the `wanted` as they can be.

    `wanted` ascends. The sum of squared moves is the least (isotonic regression by pooling neighbours).
    """
    pools: list[tuple[float, int]] = []
    for index, place in enumerate(wanted):
        mean, count = place - index * apart, 1
        while pools and pools[-1][0] > mean:
            before, members = pools.pop()
            mean = (before * members + mean * count) / (members + count)
            count += members
        pools.append((mean, count))
    means = [mean for mean, count in pools for _ in range(count)]
    low = apart / 2
    high = max(low, 1 - apart / 2 - (len(means) - 1) * apart)
    return [min(max(mean, low), high) + index * apart for index, mean in enumerate(means)]


def darker(color: str) -> str:
    """Return a color of `#RRGGBB` dark enough for letters on white."""
    parts = (int(color[at : at + 2], 16) for at in (1, 3, 5))
    return "#" + "".join(f"{round(part * _DARKER):02x}" for part in parts)


def _share(limits: tuple[float, float], value: float) -> float:
    """Return the place of a value on a logarithmic axis: 0 at its start, 1 at its end."""
    low, high = limits
    return math.log(value / low) / math.log(high / low)


def _shown(name: str) -> str:
    """Return a name that matplotlib does not take for one to be left out, as it does with `_name`."""
    return f"\u200a{name}" if name.startswith("_") else name
