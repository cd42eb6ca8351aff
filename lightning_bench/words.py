"""Words that several rooms print: directions, counted nouns, and the word that was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

DIRECTION_WORDS: dict[str, str] = {
    "fwd": "forward",
    "bwd": "backward",
    "fwd_bwd": "forward and backward",
}
"""What each direction measures, in words."""


def counted(count: int, noun: str) -> str:
    """Return `1 row` or `2 rows`, for nouns whose plural ends in s."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def nearest(word: str, allowed: Iterable[str]) -> str | None:
    """Return the allowed word that is most like `word`, or None; case, `-` and `_` make no difference."""
    plain = {each.lower().replace("-", "_"): each for each in allowed}
    near = difflib.get_close_matches(word.lower().replace("-", "_"), plain, n=1)
    return plain[near[0]] if near else None
