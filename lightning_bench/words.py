"""Words that several rooms print: counted nouns and directions."""

from __future__ import annotations

DIRECTION_WORDS: dict[str, str] = {
    "fwd": "forward",
    "bwd": "backward",
    "fwd_bwd": "forward and backward",
}
"""What each direction measures, in words."""


def counted(count: int, noun: str) -> str:
    """Return `1 row` or `2 rows`, for nouns that form their plural with an s."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
