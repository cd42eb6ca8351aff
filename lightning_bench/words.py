"""Words that several rooms print: directions, counted nouns, and the word that was probably meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

_MOST_LISTED = 8
_LONG_REASON, _LONGEST_REASON = 100, 500  # characters
_LEAST_BEGINNING = 3  # letters from which the beginning of a word says which is meant
_PROCESSES = re.compile(r" \((?:[^();]* \(pid [^)]*\))+[^();]*\)")  # " (python (pid 7) 0.9, …)"

DIRECTION_WORDS: dict[str, str] = {
    "fwd": "forward",
    "bwd": "backward",
    "fwd_bwd": "forward and backward",
}
"""What each direction measures, in words."""


def counted(count: int, noun: str) -> str:
    """Return `1 row` or `2 rows`, for nouns whose plural ends in s."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def duration(seconds: float) -> str:
    """Return a time as `12 s`, `3 min` or `1.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def any_of(words: Sequence[str]) -> str:
    """Return `a`, `a or b`, `a, b or c`."""
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def without_processes(reason: str) -> str:
    """Return a reason without the names of processes, as ` (python (pid 7) 0.9, mypy (pid 8) 0.1)`."""
    return _PROCESSES.sub("", reason)


def brief(reason: str) -> str:
    """Return a reason as tables quote it: whole, of a long one without the names of processes.

    What is still longer than `_LONGEST_REASON`, as a compiler's error can be, ends there; the CSV has it all.
    """
    if len(reason) > _LONG_REASON:
        reason = without_processes(reason)
    if len(reason) <= _LONGEST_REASON:
        return reason
    end = reason.rfind(" ", 0, _LONGEST_REASON)
    return reason[: end if end > 0 else _LONGEST_REASON].rstrip(" ;,:") + " …"


def nearest_words(word: str, allowed: Iterable[str], most: int = 3) -> list[str]:
    """Return the allowed words that are most like `word`, best first; case, `-` and `_` are not compared.

    Words of which a part begins with `word` (`sdpa-math` and `vq-sdpa` with `sdpa`) come first, in the order
    of `allowed`, then those that are spelled alike.
    """
    plain = {each.lower().replace("-", "_"): each for each in allowed}
    given = word.lower().replace("-", "_")
    whole = len(given) >= _LEAST_BEGINNING
    begun = [each for each in plain if whole and f"_{given}" in f"_{each}"]
    alike = difflib.get_close_matches(given, plain, n=most)
    return [plain[each] for each in dict.fromkeys([*begun, *alike])][:most]


def choice(word: str, allowed: Sequence[str]) -> str:
    """Return what to give instead of `word`: the words allowed or, of many, only the nearest."""
    if len(allowed) > _MOST_LISTED and (near := nearest_words(word, allowed)):
        return f"did you mean {any_of(near)}?"
    return f"allowed: {', '.join(allowed) or 'none'}"


def nearest(word: str, allowed: Iterable[str]) -> str | None:
    """Return the allowed word that is most like `word`, or None; case, `-` and `_` are not compared."""
    return next(iter(nearest_words(word, allowed, 1)), None)
