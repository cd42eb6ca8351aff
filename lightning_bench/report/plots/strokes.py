"""How each provider is drawn: its own colour, marker and dashes, in print and on the page.

A provider is recognised by its marker and its dashes; its colour (Okabe and Ito's palette without yellow) is
a third hint. Filled markers compute linear attention, hollow ones softmax.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

from lightning_bench.providers import BUILT_IN

Dashes = tuple[float, tuple[float, ...]] | Literal["-"]


@dataclass(frozen=True)
class Stroke:
    """How one provider is drawn. `hollow` fills its marker with white."""

    color: str
    marker: str
    dashes: Dashes
    hollow: bool


_BLACK, _ORANGE, _SKY, _GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
_BLUE, _VERMILION, _PURPLE, _BROWN = "#0072B2", "#D55E00", "#CC79A7", "#7F5F3F"
_MUTED = "#A6A6A6"
_SOLID: Dashes = "-"
_DASH, _LONG, _DOT = (0.0, (4.0, 1.5)), (0.0, (7.0, 1.5)), (0.0, (1.0, 1.2))
_DASH_DOT, _DASH_DOT_DOT = (0.0, (5.0, 1.2, 1.0, 1.2)), (0.0, (5.0, 1.2, 1.0, 1.2, 1.0, 1.2))
_SHORT, _LONG_SHORT = (0.0, (2.2, 1.2)), (0.0, (7.0, 1.2, 2.2, 1.2))
_DASH_DASH_DOT = (0.0, (4.0, 1.2, 4.0, 1.2, 1.0, 1.2))
_PATTERNS = (_SOLID, _DASH, _LONG, _DOT, _DASH_DOT, _DASH_DOT_DOT, _SHORT, _LONG_SHORT, _DASH_DASH_DOT)

_KNOWN = {
    "lightning2": Stroke(_BLUE, "o", _SOLID, False),
    "lightning2-torch": Stroke(_SKY, "X", _DASH_DOT, False),
    "lightning1": Stroke(_GREEN, "s", _LONG, False),
    "lightning-official": Stroke(_VERMILION, "D", _SOLID, False),
    "fla-chunk": Stroke(_ORANGE, "^", _SOLID, False),
    "fla-fused-chunk": Stroke(_PURPLE, "v", _DASH_DOT, False),
    "fla-recurrent": Stroke(_BROWN, "8", _LONG_SHORT, False),
    "flash2": Stroke(_BLACK, "o", _DASH, True),
    "flash4": Stroke(_BLUE, "D", _DOT, True),
    "xformers": Stroke(_ORANGE, "s", _DASH, True),
    "xformers-auto": Stroke(_BROWN, "P", _DOT, True),
    "sdpa-flash": Stroke(_SKY, "^", _DASH_DOT_DOT, True),
    "sdpa-cudnn": Stroke(_GREEN, "v", _DASH, True),
    "sdpa-efficient": Stroke(_VERMILION, "p", _DASH_DOT_DOT, True),
    "sdpa-math": Stroke(_PURPLE, "*", _DOT, True),
}
_taken = {(stroke.marker, stroke.dashes) for stroke in _KNOWN.values()}
_POOL = [
    pair
    for dashes, marker in product(_PATTERNS, "os^vD<>PXphd*8")
    if (pair := (marker, dashes)) not in _taken
]
_COLORS = (_BLUE, _ORANGE, _GREEN, _VERMILION, _PURPLE, _SKY, _BROWN, _BLACK)
# The other providers of this package, in the order of the registry.
_OTHERS = {
    name: (_COLORS[at % len(_COLORS)], *_POOL.pop(0))
    for at, name in enumerate(name for name in BUILT_IN if name not in _KNOWN)
}


def strokes(families: dict[str, str]) -> dict[str, Stroke]:
    """Return a stroke for each provider (name to family), no two with one marker and dashes.

    A provider of this package always has the same. Another has one by its name: the same in every plot,
    unless two such names meet on one; then the later of the two in the alphabet takes the next.
    """
    found = {name: _KNOWN[name] for name in families if name in _KNOWN}
    for name, (color, marker, dashes) in _OTHERS.items():
        if name in families:
            found[name] = Stroke(color, marker, dashes, _hollow(families[name]))
    used: set[int] = set()
    for name in sorted(families.keys() - found.keys()):
        at = zlib.crc32(name.encode()) % len(_POOL)
        while at in used and len(used) < len(_POOL):
            at = (at + 1) % len(_POOL)
        used.add(at)
        marker, dashes = _POOL[at]
        color = _COLORS[zlib.crc32(name[::-1].encode()) % len(_COLORS)]
        found[name] = Stroke(color, marker, dashes, _hollow(families[name]))
    return found


def muted(stroke: Stroke) -> Stroke:
    """Return the stroke in grey: for lines beyond those that color can tell apart."""
    return replace(stroke, color=_MUTED)


def _hollow(family: str) -> bool:
    return family.startswith("softmax")
