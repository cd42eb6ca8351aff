"""How every plot looks: widths, ticks, letters, and the sheet that holds text around axes.

One style for print: it is read in grey and by colour-blind people. Lines and markers are those of
`strokes`. Nothing here touches pyplot or leaves matplotlib's settings changed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, cast

import matplotlib.style
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator


@dataclass(frozen=True)
class Look:
    """A width and what follows from it. `labels` prints labels ("FlashAttention-2") for names ("flash2").

    `suffix` ends the names of the files, so that two looks can share a folder; `dpi` is of their PNG.
    """

    width_in: float
    axes_in: float
    labels: bool = False
    suffix: str = ""
    dpi: int = 300


COLUMN = Look(width_in=3.4, axes_in=2.2)
"""One column of a two-column page."""
WIDE = Look(width_in=7.0, axes_in=3.0, suffix="-wide", dpi=200)
"""Both columns of the page, a README or a slide."""

TEXT_PT, CAPTION_PT = 7.0, 6.0
_PAD_IN, _GAP_IN = 0.05, 0.07
_GREY = "#555555"
_SPAN = 0.75  # about the share of the width that axes will have: what stands beside them depends on it

_RC = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same letters everywhere
    "font.size": TEXT_PT,
    "axes.labelsize": 8.0,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "ytick.minor.size": 1.5,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.6,
    "hatch.linewidth": 0.5,
    "text.hinting": "none",  # letters as wide in a PNG as in print
    "text.parse_math": False,  # a dollar in a name is a dollar
    "svg.hashsalt": "lightning-bench",
    "svg.fonttype": "none",  # text stays text: it can be searched, selected and read aloud
    "pdf.fonttype": 42,  # TrueType: publishers refuse Type 3
    "savefig.dpi": "figure",
}


@contextmanager
def house_style() -> Iterator[None]:
    """Set our settings over matplotlib's defaults, whatever the user's are, and restore theirs afterwards."""
    with matplotlib.style.context(_RC, after_reset=True):
        yield


def length_text(n: int) -> str:
    """Return a sequence length as ticks name it, on the page too: 512, 1K, 128K, 1M."""
    for unit, letter in ((2**20, "M"), (2**10, "K")):
        if n >= unit and n % unit == 0:
            return f"{n // unit}{letter}"
    return str(n)


def number_text(value: float) -> str:
    """Return a number without an exponent: 0.01, 1, 10,000."""
    return f"{value:,.10g}"


def three_digits(value: float) -> str:
    """Return at least three digits of a positive figure, and no more decimals: 1.23, 12.3, 1,234."""
    return f"{value:,.{max(0, 2 - math.floor(math.log10(value)))}f}"


def ratio_text(value: float) -> str:
    """Return a ratio in words: 4×, 1×, 1/4×."""
    return f"{value:g}×" if value >= 1 else f"1/{1 / value:g}×"


def length_axis(axes: Axes, lengths: Sequence[int], look: Look) -> None:
    """Make the x axis logarithmic, with ticks at powers of two, as many as can be read."""
    low, high = min(lengths), max(lengths)
    powers = [2**i for i in range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)]
    ticks = powers if len(powers) > 1 else sorted(set(lengths))
    fit = int(look.width_in * 1.9)
    ticks = ticks[:: math.ceil(len(ticks) / max(fit, 2))]
    axes.set_xscale("log", base=2)
    axes.set_xlim(low / 1.15, high * 1.15)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FixedFormatter([length_text(tick) for tick in ticks]))
    axes.set_xlabel("sequence length n (tokens)")


def value_axis(axes: Axes, which: Literal["x", "y"], values: Iterable[float], *, ratio: bool = False) -> None:
    """Make an axis logarithmic around positive `values`, with plain ticks: powers of ten or of two."""
    values = list(values)
    low, high = min(values), max(values)
    room = (high / low) ** 0.05 * 1.05
    low, high = low / room, high * room
    ticks = _ticks(low, high, ratio=ratio)
    axis = axes.xaxis if which == "x" else axes.yaxis
    if which == "x":
        axes.set_xscale("log")
        axes.set_xlim(low, high)
    else:
        axes.set_yscale("log")
        axes.set_ylim(low, high)
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FixedFormatter([(ratio_text if ratio else number_text)(t) for t in ticks]))


def _ticks(low: float, high: float, *, ratio: bool) -> list[float]:
    if ratio:
        powers = [2.0**i for i in range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)]
        if len(powers) > 8:
            powers = [power for power in powers if round(math.log2(power)) % 2 == 0]
        if len(powers) > 1:
            return powers
    bottom, top = math.floor(math.log10(low)), math.ceil(math.log10(high))
    found: list[float] = []
    for steps in ((1,), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)):
        found = [
            float(f"{step}e{i}")
            for i in range(bottom, top + 1)
            for step in steps
            if low <= float(f"{step}e{i}") <= high
        ]
        if len(found) >= 3:
            break
    return found


@lru_cache(maxsize=4096)
def _word_in(word: str, size: float, weight: str) -> float:
    figure = Figure(dpi=300)
    renderer = cast(Any, FigureCanvasAgg(figure)).get_renderer()
    font = FontProperties(family="sans-serif", size=size, weight=weight)
    return float(renderer.get_text_width_height_descent(word, font, False)[0]) / figure.dpi


class Sheet:
    """A figure of a look's width: title, axes, notes and caption, none of them over another."""

    def __init__(self, look: Look, panels: Sequence[float]) -> None:
        """Start a figure with one axes for each of `panels`, their heights in inches, from the top."""
        self.look = look
        self.heights = list(panels)
        self.figure = Figure(figsize=(look.width_in, 6.0), dpi=look.dpi)
        self.renderer = cast(Any, FigureCanvasAgg(self.figure)).get_renderer()
        self.axes = [
            self.figure.add_axes((0.1, 0.2, _SPAN, 0.6), label=f"panel{i}") for i in range(len(panels))
        ]

    def finish(self, title: str, notes: Sequence[str], caption: str) -> Figure:
        """Place everything and return the figure, as high as its text asks for."""
        width = self.look.width_in
        inner = width - 2 * _PAD_IN
        head = self._text(title, TEXT_PT + 0.5, inner, weight="bold")
        below = [self._text(" ".join(notes), TEXT_PT, inner)] if notes else []
        below.append(self._text(caption, CAPTION_PT, inner, color=_GREY))
        margins = [self._margins(axes) for axes in self.axes]
        left = _PAD_IN + max(margin[0] for margin in margins)
        span = width - _PAD_IN - max(0.0, *(margin[1] for margin in margins)) - left
        y = _PAD_IN + head[1] + _GAP_IN
        tops: list[float] = []
        for height, margin in zip(self.heights, margins, strict=True):
            tops.append(y + margin[2])
            y += margin[2] + height + margin[3] + _GAP_IN
        total = y + sum(text[1] + _GAP_IN / 2 for text in below) + _PAD_IN
        self.figure.set_size_inches(width, total)
        for axes, height, top in zip(self.axes, self.heights, tops, strict=True):
            axes.set_position((left / width, 1 - (top + height) / total, span / width, height / total))
        self._put(head, _PAD_IN, total)
        for text in below:
            self._put(text, y, total)
            y += text[1] + _GAP_IN / 2
        return self.figure

    def _put(self, text: tuple[Artist, float], y: float, total: float) -> None:
        text[0].set(position=(_PAD_IN / self.look.width_in, 1 - y / total))

    def _text(
        self, content: str, size: float, width: float, *, weight: str = "normal", color: str = "black"
    ) -> tuple[Artist, float]:
        """Return a text wrapped to `width` inches, and its height in inches."""
        font = FontProperties(family="sans-serif", size=size, weight=weight)
        lines = [""]
        for word in content.split():
            longer = f"{lines[-1]} {word}".strip()
            if lines[-1] and self._width(longer, font) > width:
                lines.append(word)
            else:
                lines[-1] = longer
        text = self.figure.text(
            0, 1, "\n".join(lines), va="top", fontproperties=font, color=color, linespacing=1.25
        )
        return text, text.get_window_extent(self.renderer).height / self.figure.dpi

    def _width(self, content: str, font: FontProperties) -> float:
        """Return the width of text in inches, word by word: the same few words come again and again."""
        return sum(_word_in(f"{word} ", font.get_size(), font.get_weight()) for word in content.split())

    def _margins(self, axes: Axes) -> tuple[float, float, float, float]:
        """Inches that ticks and labels take on the left, right, top and bottom of the axes."""
        whole, inside = axes.get_tightbbox(self.renderer), axes.get_window_extent(self.renderer)
        if whole is None:
            return 0.0, 0.0, 0.0, 0.0
        edges = inside.x0 - whole.x0, whole.x1 - inside.x1, whole.y1 - inside.y1, inside.y0 - whole.y0
        left, right, top, bottom = (max(0.0, edge) / self.figure.dpi for edge in edges)
        return left, right, top, bottom
