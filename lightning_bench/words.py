"""How many there are of a thing, in words."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """``1 row``, ``2 rows``: for nouns whose plural is an s more."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
