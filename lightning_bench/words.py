"""Words in messages: counts of things, and the nearest known word to a mistyped one."""

from __future__ import annotations

from collections.abc import Iterable


def counted(count: int, noun: str) -> str:
    """Return `1 row` or `2 rows`, for nouns whose plural ends in s."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def closest(word: str, allowed: Iterable[str]) -> str | None:
    """Return the allowed word that is most similar to `word`, or None if none is similar enough."""
    import difflib  # only a mistake needs it

    near = difflib.get_close_matches(word, list(allowed), n=1)
    return near[0] if near else None
