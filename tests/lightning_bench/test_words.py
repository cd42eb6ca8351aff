"""Words of messages."""

from __future__ import annotations

import pytest

from lightning_bench.words import any_of, brief, choice, counted, nearest, nearest_words, without_processes


def test_a_noun_is_counted() -> None:
    assert [counted(count, "row") for count in (0, 1, 2)] == ["0 rows", "1 row", "2 rows"]


@pytest.mark.parametrize(
    ("word", "expected"),
    [("seq_lne", "seq_len"), ("SEQ-LEN", "seq_len"), ("fla_chunk", "fla-chunk"), ("zebra", None)],
)
def test_the_nearest_word_is_found(word: str, expected: str | None) -> None:
    assert nearest(word, ["seq_len", "head_dim", "fla-chunk"]) == expected


def test_near_words_come_best_first_and_not_all() -> None:
    names = ["paper", "paper-long", "papers", "papered", "quick"]
    assert nearest_words("pappers", names) == ["papers", "paper", "papered"]
    assert nearest_words("zebra", names) == []


def test_words_that_begin_with_it_or_have_a_part_that_does_come_first() -> None:
    names = ["fla-chunk", "lightning2", "sdpa-math", "vq-sdpa", "spda"]
    assert nearest_words("SDPA", names) == ["sdpa-math", "vq-sdpa", "spda"]
    assert nearest_words("lightning", names) == ["lightning2"]
    assert nearest_words("sd", ["sdpa-math"]) == []


def test_alternatives_are_joined() -> None:
    assert [any_of(list(words)) for words in ("a", "ab", "abc")] == ["a", "a or b", "a, b or c"]


def test_of_many_words_only_the_nearest_are_named() -> None:
    many = [f"kernel-{number}" for number in range(57)]
    assert choice("kernle-5", many).startswith("did you mean kernel-5")
    assert len(choice("kernle-5", many)) < 60
    assert choice("up", ["fwd", "bwd"]) == "allowed: fwd, bwd"
    assert choice("up", []) == "allowed: none"


@pytest.mark.parametrize(
    ("reason", "left"),
    [
        ("used 1.0 of 2 (python (pid 7) 0.9, mypy (pid 8) 0.1); wide", "used 1.0 of 2; wide"),
        ("used 1.0 of 2 (a b (pid 7) 0.9)", "used 1.0 of 2"),
        ("out of memory (of 140 GiB)", "out of memory (of 140 GiB)"),
        ("", ""),
    ],
)
def test_names_of_processes_are_left_out(reason: str, left: str) -> None:
    assert without_processes(reason) == left


def test_a_reason_is_whole_unless_no_reader_would_read_it() -> None:
    load = "other processes used 1.0 of 2 processors (pytest (pid 7) 0.9)"
    assert brief(load) == load
    assert brief(f"{load}; {'so ' * 40}on") == f"other processes used 1.0 of 2 processors; {'so ' * 40}on"
    assert brief("so " * 200) == f"{'so ' * 166}…"
    assert brief("x" * 600) == f"{'x' * 500} …"
