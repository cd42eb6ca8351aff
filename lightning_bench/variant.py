"""Variant: what a case changes about the usual inputs, such as the layer whose slopes it has, or documents.

Every fact has a default that changes nothing, a column of the result file, and a part of the case's id.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any, Literal

_MOST_PARTS = 2**20
_MOST_DOCUMENTS = 2**16
_LONGEST = 2**31 - 1
_LONGEST_TEXT, _LONGEST_LABEL = 500, 16
_PART = re.compile(r"\s*([0-9]{1,9})\s*of\s*([0-9]{1,9})\s*")
_RUN = re.compile(r"\s*(?:([0-9]{1,9})\s*[x*]\s*)?([0-9]{1,10})(k?)\s*", re.IGNORECASE)

PartName = Literal["layer", "rank"]
PARTS_ALLOWED: dict[PartName, str] = {
    "layer": 'a layer counted from 0, such as "79 of 80" for the last of 80',
    "rank": 'a rank counted from 0, such as "7 of 8" for the last of 8',
}
PACKING_ALLOWED = (
    'lengths of documents such as "96k + 31 x 1k" (one of 98304 tokens, 31 of 1024) or "8 x 16k"'
)


@dataclass(frozen=True, order=True)
class Part:
    """One of several parts, counted from 0: layer 79 of 80 is the last one."""

    index: int = 0
    count: int = 1

    def __str__(self) -> str:
        return f"{self.index} of {self.count}"


WHOLE = Part()
"""The only part there is: no layer, no rank."""


@dataclass(frozen=True, order=True)
class Variant:
    """What differs from the usual inputs.

    `kv_heads` is the number of heads of k and v, 0 for as many as q has. `layer` is the layer of a model
    whose slopes are taken, `rank` the rank whose heads are taken, under tensor parallelism. `documents` are
    the lengths of the sequences that are packed into one of a batch of 1, each from a zero state.
    """

    kv_heads: int = 0
    layer: Part = WHOLE
    rank: Part = WHOLE
    documents: tuple[int, ...] = ()

    @classmethod
    def of_columns(cls, kv_heads: int | None, layer: str, rank: str, packing: str) -> Variant:
        """Return the variant of a row's columns. Raise ValueError for a text that says nothing."""
        return cls(kv_heads or 0, read_part(layer, "layer"), read_part(rank, "rank"), read_packing(packing))

    @property
    def columns(self) -> dict[str, Any]:
        """The row's columns; a default is a blank."""
        return {
            "kv_heads": self.kv_heads or None,
            "layer": part_text(self.layer),
            "rank": part_text(self.rank),
            "packing": packing_text(self.documents),
        }

    @property
    def words(self) -> str:
        """What differs, for people: 2 kv heads, layer 79 of 80, rank 7 of 8, documents 96k+31x1k."""
        words = {"kv_heads": "{} kv heads", "layer": "layer {}", "rank": "rank {}", "packing": "documents {}"}
        columns = self.columns | {"packing": packing_label(self.documents)}
        return ", ".join(words[name].format(value) for name, value in columns.items() if value)

    def __str__(self) -> str:
        parts = {name: str(value).replace(" ", "") for name, value in self.columns.items() if value}
        return "".join(f"-{_LETTERS[name]}{value}" for name, value in parts.items())


PLAIN = Variant()
"""The variant that changes nothing."""

_LETTERS = {"kv_heads": "kv", "layer": "layer", "rank": "rank", "packing": "docs"}


@lru_cache(maxsize=1024)
def read_part(text: str, name: PartName) -> Part:
    """Return the layer or rank of a text such as "7 of 8" or "7of8"; blank is `WHOLE`. Raise ValueError."""
    if not text:
        return WHOLE
    match = _PART.fullmatch(text)
    part = Part(int(match[1]), int(match[2])) if match else Part(0, 0)
    if 0 < part.count <= part.index and part.count <= _MOST_PARTS:
        last = Part(part.count - 1, part.count)
        raise ValueError(f"{text!r} is out of range: counted from 0, the last {name} is {str(last)!r}")
    if not 0 < part.count <= _MOST_PARTS:
        raise ValueError(f"{text!r} is no {name}; allowed: {PARTS_ALLOWED[name]}")
    return part


def part_text(part: Part) -> str:
    """Return a part as a row has it: 7 of 8; `WHOLE` is blank."""
    return "" if part == WHOLE else str(part)


@lru_cache(maxsize=1024)
def read_packing(text: str) -> tuple[int, ...]:
    """Return the lengths of a text such as "96k + 31 x 1k", where k is 1024; blank has none.

    Raise ValueError for another text, and for more tokens or different lengths than a row can state.
    """
    lengths: list[int] = []
    for run in text.split("+") if text else ():
        match = _RUN.fullmatch(run)
        count, length = (int(match[1] or 1), int(match[2]) * (1024 if match[3] else 1)) if match else (0, 0)
        if not (count and length) or len(lengths) + count > _MOST_DOCUMENTS:
            raise ValueError(f"{text!r} is no packing; allowed: {PACKING_ALLOWED}")
        lengths += [length] * count
    if sum(lengths) > _LONGEST:
        raise ValueError(f"{text!r} has {sum(lengths)} tokens; allowed: at most {_LONGEST}")
    if len(packing_text(lengths)) > _LONGEST_TEXT:
        raise ValueError(f"a packing of so many different lengths has no row; allowed: {PACKING_ALLOWED}")
    return tuple(lengths)


def packing_text(documents: Iterable[int]) -> str:
    """Return lengths as a row has them: 96k+31x1k; equal neighbours are one run."""
    runs = ((length, len(list(same))) for length, same in groupby(documents))
    return "+".join(f"{count}x{_length(n)}" if count > 1 else _length(n) for n, count in runs)


def packing_label(documents: Sequence[int]) -> str:
    """Return a packing for a column of a table: 96k+31x1k, or where that is long, 16 of 300…32k."""
    text = packing_text(documents)
    if len(text) <= _LONGEST_LABEL:
        return text
    return f"{len(documents)} of {_length(min(documents))}…{_length(max(documents))}"


def _length(n: int) -> str:
    return str(n) if n % 1024 else f"{n // 1024}k"
