"""Listings as tables that fit: no word is broken, and what has no room has lines of its own."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from itertools import zip_longest
from textwrap import wrap

_GAP = "  "


def listing_lines(
    rows: Sequence[Sequence[str]], width: int, wrapped: int = 1, right: Container[int] = ()
) -> Iterator[list[str]]:
    """Yield the lines of each row, the header's first, of at most `width` characters but for longer words.

    The last `wrapped` columns wrap. Where they have no room for their longest word, they are written below
    the others, indented. The columns in `right` end at their right edge.
    """
    columns = [list(column) for column in zip(*rows, strict=True)]
    fixed = [max(map(len, column)) for column in columns[: len(columns) - wrapped]]
    loose = _shares(
        [(max(map(_longest_word, column)), max(map(len, column))) for column in columns[len(fixed) :]],
        width - sum(fixed) - len(_GAP) * (len(columns) - 1),
    )
    for row in rows:
        if loose is None:
            below = [line for cell in row[len(fixed) :] if cell for line in _wrapped(cell, width, _GAP)]
            yield [_joined(row[: len(fixed)], fixed, right), *below]
            continue
        cells = [[cell] for cell in row[: len(fixed)]]
        cells += [_wrapped(cell, room) for cell, room in zip(row[len(fixed) :], loose, strict=True)]
        lines = zip_longest(*cells, fillvalue="")
        yield [_joined(line, [*fixed, *loose], right) for line in lines]


def indented_lines(text: str, width: int) -> list[str]:
    """Return a text below a row, in lines of at most `width` characters but for longer words; none of ""."""
    return _wrapped(text, width, 2 * _GAP) if text else []


def _shares(needs: Sequence[tuple[int, int]], room: int) -> list[int] | None:
    """Share the room among columns by (longest word, longest text); None if the words do not fit."""
    widths = [word for word, _ in needs]
    left = room - sum(widths)
    if left < 0:
        return None
    for index, (word, text) in enumerate(needs):
        widths[index] += (more := min(text - word, left // (len(needs) - index)))
        left -= more
    return widths


def _longest_word(text: str) -> int:
    return max(map(len, text.split()), default=0)


def _wrapped(text: str, width: int, indent: str = "") -> list[str]:
    lines = wrap(
        text,
        max(width, 1),
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return lines or [""]


def _joined(cells: Sequence[str], widths: Sequence[int], right: Container[int]) -> str:
    padded = (
        cell.rjust(width) if index in right else cell.ljust(width)
        for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return _GAP.join(padded).rstrip()
