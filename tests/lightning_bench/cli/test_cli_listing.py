"""Listings: no text is cut, no word is broken, and they fit where words do."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lightning_bench.cli.shared.listing_lines import listing_lines

WORDS = st.lists(st.text("abcdef-/", min_size=1, max_size=12), max_size=6).map(" ".join)
CELLS = st.tuples(st.text("xyz", max_size=8), WORDS, WORDS)


@given(st.lists(CELLS, min_size=1, max_size=5), st.integers(1, 120), st.sampled_from([1, 2]))
def test_every_word_is_there_whole_and_in_order(
    rows: list[tuple[str, str, str]], width: int, wrapped: int
) -> None:
    shown = list(listing_lines(rows, width, wrapped))
    assert len(shown) == len(rows)
    for row, lines in zip(rows, shown, strict=True):
        words = " ".join(lines).split()
        assert sorted(words) == sorted(word for cell in row for word in cell.split())
        longest = max([len(word) for cell in row for word in cell.split()], default=0)
        if width >= 8 + 12 * 6 * 2 + 4:
            assert max(map(len, lines)) <= width
        elif wrapped == 2:
            assert max(map(len, lines)) <= max(width, 8, longest + 2)


def test_a_table_that_has_room() -> None:
    rows = [("verdict", "change", "case"), ("SLOWER", "+3.1 %", "a/fwd/b1 why it is so"), ("SAME", "", "b")]
    assert list(listing_lines(rows, 30, right=[1])) == [
        ["verdict  change  case"],
        ["SLOWER   +3.1 %  a/fwd/b1 why", "                 it is so"],
        ["SAME             b"],
    ]


def test_what_has_no_room_is_below() -> None:
    rows = [("verdict", "change", "case"), ("SLOWER", "+3.1 %", "lightning2/fwd/b4-h32 why it is so")]
    assert list(listing_lines(rows, 30)) == [
        ["verdict  change", "  case"],
        ["SLOWER   +3.1 %", "  lightning2/fwd/b4-h32 why it", "  is so"],
    ]
