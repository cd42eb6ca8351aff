"""Parsers of one axis: lengths, ranges, comparisons, words, providers. All faults of a value at once."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal, TypeVar, cast

from lightning_bench import variant
from lightning_bench.case import Family
from lightning_bench.errors import UsageError
from lightning_bench.providers import canonical_spec, declared_provider
from lightning_bench.providers.registry.probe import DeclaredProvider
from lightning_bench.providers.registry.specs import is_file_spec
from lightning_bench.variant import WHOLE, PartName, packing_text, read_packing, read_part
from lightning_bench.words import nearest

Item = TypeVar("Item")
Word = TypeVar("Word", bound=str)
Operator = Literal["=", ">", ">=", "<", "<="]

MAX_LENGTH = 2**31 - 1
LENGTHS_ALLOWED = (
    f'an integer from 1 to {MAX_LENGTH}, "4k" for 4096, a list of them, or a range: "512..32768" doubles, '
    '"1k..4k:512" goes by steps of 512'
)
SEVERAL_ALLOWED = LENGTHS_ALLOWED.replace("from 1", "from 2")
BOUNDS_ALLOWED = (
    f"an integer from 1 to {MAX_LENGTH}, a list of them (any of), or a comparison such as "
    '"> 65536", ">= 512", "< 128", "<= 4k"'
)
PROVIDERS_ALLOWED = (
    "a list of provider names (see `lbench providers`), path/to/file.py:NAME or "
    "hub:ORG/NAME@REVISION:FUNCTION, with @FAMILY behind a function"
)

PARTS_ALLOWED = {name: f"{allowed}, or a list of them" for name, allowed in variant.PARTS_ALLOWED.items()}
PACKINGS_ALLOWED = f"{variant.PACKING_ALLOWED}, or a list of them"

_MOST_FAULTS = 20
_UNITS = {"k": 2**10, "m": 2**20}
_MOST_STEPS = 1000
_NUMBER = r"([0-9_]+[kKmM]?)"
_RANGE = re.compile(rf"{_NUMBER}\s*\.\.\s*{_NUMBER}(?:\s*:\s*{_NUMBER})?")
_COMPARISON = re.compile(rf"([<>]=?)\s*{_NUMBER}")


class Faults(ValueError):  # noqa: N818 - a collection of what is wrong, not one error
    """Everything that is wrong with one value; each entry is one sentence fit for one line."""

    def __init__(self, *faults: str) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


@dataclass(frozen=True)
class LengthBound:
    """A condition on a length in an exclude entry, such as `> 65536`."""

    operator: Operator
    value: int

    def holds(self, length: int) -> bool:
        """Return whether the length meets the condition."""
        match self.operator:
            case "=":
                return length == self.value
            case ">":
                return length > self.value
            case ">=":
                return length >= self.value
            case "<":
                return length < self.value
            case "<=":
                return length <= self.value

    def __str__(self) -> str:
        return str(self.value) if self.operator == "=" else f'"{self.operator} {self.value}"'


def show(value: object) -> str:
    """Return a value as written in TOML, on one line of at most 60 characters."""
    try:
        text = repr(value) if isinstance(value, float) else json.dumps(value, default=str)
    except (TypeError, ValueError, RecursionError):
        text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """Return ` (did you mean `seq_len`?)` with the nearest word that is allowed, or nothing."""
    near = nearest(word, allowed)
    return f" (did you mean `{near}`?)" if near else ""


def read_lengths(value: object) -> tuple[int, ...]:
    """Return the lengths of an integer axis: an integer, a list, or a string range. Raises Faults."""

    def read(item: object) -> tuple[int, ...]:
        return read_range(item) if isinstance(item, str) else (_length(item, LENGTHS_ALLOWED),)

    return _collect(value, read, LENGTHS_ALLOWED)


def read_several(value: object) -> tuple[int, ...]:
    """Return numbers from 2: a prompt of one token is a decoding step, one new token needs none, one rank
    shares with nobody.
    """
    lengths = read_lengths(value)
    if faults := [f"{length} is too few; allowed: {SEVERAL_ALLOWED}" for length in lengths if length < 2]:
        raise Faults(*faults)
    return lengths


def read_range(text: str) -> tuple[int, ...]:
    """Return the lengths of a text. Raises Faults.

    `"4k"` is 4096. A range has both its ends: `"512..4k"` doubles, 512, 1024, 2048, 4096, and
    `"512..2k:512"` goes by steps, 512, 1024, 1536, 2048.
    """
    if ".." not in text:
        return (_number(text.strip(), LENGTHS_ALLOWED),)
    match = _RANGE.fullmatch(text.strip())
    if match is None:
        raise Faults(f"{show(text)} is no range; allowed: {LENGTHS_ALLOWED}")
    start, end, *steps = (_number(part, LENGTHS_ALLOWED) for part in match.groups() if part)
    if end < start:
        raise Faults(f"the range {show(text)} ends before it starts; allowed: start..end with start <= end")
    return _steps(text, start, end, steps[0]) if steps else _doublings(text, start, end)


def _steps(text: str, start: int, end: int, step: int) -> tuple[int, ...]:
    if rest := (end - start) % step:
        raise Faults(
            f"the range {show(text)} does not reach its end by steps of {step}; allowed: an end such as "
            f'"{start}..{end - rest}:{step}" or "{start}..{end - rest + step}:{step}"'
        )
    if (end - start) // step >= _MOST_STEPS:
        raise Faults(f"the range {show(text)} has more than {_MOST_STEPS} lengths; allowed: a larger step")
    return tuple(range(start, end + 1, step))


def _doublings(text: str, start: int, end: int) -> tuple[int, ...]:
    lengths = [start]
    while lengths[-1] < end:
        lengths.append(2 * lengths[-1])
    if lengths[-1] != end:
        raise Faults(
            f"the range {show(text)} does not reach its end by doubling; allowed: an end that is "
            f'{start} times a power of two, such as "{start}..{lengths[-2]}" or "{start}..{lengths[-1]}", '
            f'or a step: "start..end:step"'
        )
    return tuple(lengths)


def read_bounds(value: object) -> tuple[LengthBound, ...]:
    """Return the bounds of an exclude entry on an integer axis, any of which suffices. Raises Faults."""

    def read(item: object) -> tuple[LengthBound]:
        if not isinstance(item, str):
            return (LengthBound("=", _length(item, BOUNDS_ALLOWED)),)
        match = _COMPARISON.fullmatch(item.strip())
        if match is None:
            raise Faults(f"{show(item)} can match no length; allowed: {BOUNDS_ALLOWED}")
        bound = LengthBound(cast(Operator, match[1]), _number(match[2], BOUNDS_ALLOWED))
        if not (bound.holds(1) or bound.holds(MAX_LENGTH)):
            raise Faults(f"{show(item)} can match no length; allowed: {BOUNDS_ALLOWED}")
        return (bound,)

    return _collect(value, read, BOUNDS_ALLOWED)


def read_words(value: object, allowed: Sequence[Word]) -> tuple[Word, ...]:
    """Return one word or a list of words out of a fixed vocabulary. Raises Faults."""
    choice = ", ".join(allowed)

    def read(item: object) -> tuple[Word]:
        for word in allowed:
            if item == word:
                return (word,)
        hint = did_you_mean(item, allowed) if isinstance(item, str) else ""
        raise Faults(f"{show(item)} is not known{hint}; allowed: {choice}")

    return _collect(value, read, choice)


def read_parts(value: object, name: PartName, *, excluded: bool = False) -> tuple[str, ...]:
    """Return the layers or ranks of an axis, as rows have them: "79 of 80". Raises Faults.

    "0 of 1" is all there is, which no row states: it is a fault but in an exclude, where it is what has no
    such part.
    """

    def tidy(text: str) -> str:
        part = read_part(text, name)
        if part == WHOLE and not excluded:
            raise ValueError(
                f"{text!r} is the only {name}, as without {name}, and rows would not state it; leave it "
                "out, or give it a group of its own without the key"
            )
        return str(part)

    return _collect(value, _texts(tidy, PARTS_ALLOWED[name]), PARTS_ALLOWED[name])


def read_packings(value: object) -> tuple[str, ...]:
    """Return the documents of each packing, as rows have them: "96k+31x1k". Raises Faults."""
    return _collect(
        value, _texts(lambda text: packing_text(read_packing(text)), PACKINGS_ALLOWED), PACKINGS_ALLOWED
    )


def read_providers(value: object, folder: Path) -> tuple[str, ...]:
    """Return canonical specs of providers; relative paths start at `folder`. Raises Faults."""

    def read(item: object) -> tuple[str]:
        if not isinstance(item, str):
            raise Faults(f"{show(item)} is no provider; allowed: {PROVIDERS_ALLOWED}")
        spec = _anchored(item, folder)
        try:
            declared_provider(spec)
            return (canonical_spec(spec),)
        except UsageError as error:
            raise Faults(" ".join(str(error).split())) from None

    return _collect(value, read, PROVIDERS_ALLOWED)


def uneven_heads(heads: Iterable[int], kv_heads: Iterable[int]) -> str | None:
    """Return which heads are in no groups of equal size, in words, or None."""
    for h, kv in product(heads, kv_heads):
        if h % kv:
            return f"heads {h} in groups of kv_heads {kv}; allowed: a divisor of heads"
    return None


def packed_batch(batch: Iterable[int]) -> str | None:
    """Return which batch sizes do not go with packed documents, in words, or None."""
    if (sizes := tuple(batch)) == (1,):
        return None
    return f"batch {', '.join(map(str, sizes))} with packing; allowed: 1, which has all documents"


def family_of(spec: str) -> Family:
    """Return the family of a provider that has been read."""
    return declared_provider(spec).family


def family_is_known(spec: str) -> bool:
    """Return whether a provider that has been read could be asked for its family."""
    provider = declared_provider(spec)
    return not isinstance(provider, DeclaredProvider) or provider.is_loaded


def distinct(items: Iterable[Item]) -> tuple[Item, ...]:
    """Return the items in their order, each once."""
    return tuple(dict.fromkeys(items))


def _collect(value: object, read: Callable[[object], tuple[Item, ...]], allowed: str) -> tuple[Item, ...]:
    items = list(value) if isinstance(value, list | tuple) else [value]
    if not items:
        raise Faults(f"is empty; allowed: {allowed}")
    found: list[Item] = []
    faults: list[str] = []
    for item in items:
        try:
            found += read(item)
        except Faults as error:
            faults += error.faults
    twice = [item for item, count in Counter(found).items() if count > 1]
    faults += [f"{item} is listed more than once; allowed: each value once" for item in twice]
    if faults:
        shown = distinct(faults)
        more = len(shown) - _MOST_FAULTS
        raise Faults(*shown[:_MOST_FAULTS], *([f"and {more} more faults"] if more > 0 else []))
    return tuple(found)


def _texts(tidy: Callable[[str], str], allowed: str) -> Callable[[object], tuple[str]]:
    """Return what reads an item that `tidy` takes, or raises ValueError for."""

    def read(item: object) -> tuple[str]:
        if not isinstance(item, str) or not item:
            raise Faults(f"{show(item)} is not allowed; allowed: {allowed}")
        try:
            return (tidy(item),)
        except ValueError as error:
            raise Faults(str(error)) from None

    return read


def _length(value: object, allowed: str) -> int:
    # In Python True is the integer 1; in a suite it is a mistake.
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_LENGTH:
        raise Faults(f"{show(value)} is not allowed; allowed: {allowed}")
    return value


def _number(text: str, allowed: str) -> int:
    unit = _UNITS.get(text[-1:].lower(), 1)
    try:
        value = unit * int(text[:-1] if unit > 1 else text) if len(text) <= 20 else 0
    except ValueError:  # no digits, or underscores in the wrong place
        value = 0
    if not 1 <= value <= MAX_LENGTH:
        raise Faults(f"{show(text)} is not allowed; allowed: {allowed}")
    return value


def _anchored(spec: str, folder: Path) -> str:
    return str(folder / Path(spec).expanduser()) if is_file_spec(spec) else spec
