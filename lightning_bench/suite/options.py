"""Axes as they are typed on the command line: `512,4k`, `512..32k`, `1k..4k:512`, `fwd,bwd`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning_bench.errors import UsageError
from lightning_bench.providers.registry.specs import with_family
from lightning_bench.suite.axes import Faults, Word, distinct, read_providers, read_range, read_words, show

INTS_ALLOWED = (
    "positive integers and ranges with commas between them, such as 512,4k, 512..32k (doubling) or "
    "1k..4k:512 (by steps)"
)


def parse_ints(text: str, option_name: str) -> tuple[int, ...]:
    """Return the integers of `"512,4k"`, `"512..32k"` (doubling), `"1k..4k:512"` or a mix, each once."""
    faults: list[str] = []
    lengths: list[int] = []
    for part in _parts(text, option_name, INTS_ALLOWED):
        try:
            lengths += read_range(part)
        except Faults as error:
            faults += (
                error.faults if ".." in part else [f"{show(part)} is not allowed; allowed: {INTS_ALLOWED}"]
            )
    _raise(faults, option_name)
    return distinct(lengths)


def parse_words(text: str, allowed: Sequence[Word], option_name: str) -> tuple[Word, ...]:
    """Return the words of a list such as `"fwd,bwd"`, each once; UsageError for one that is not allowed."""
    parts = _parts(text, option_name, ", ".join(allowed))
    try:
        return read_words(distinct(parts), allowed)
    except Faults as error:
        raise UsageError(_message(error.faults, option_name)) from None


def parse_providers(
    text: str, option_name: str = "--provider", *, family: str | None = None, layout: str | None = None
) -> tuple[str, ...]:
    """Return canonical specs of `"lightning2,mine.py:NAME"`; paths are relative to the working directory.

    `family` and `layout` are those of plain functions of files whose specs do not name them.
    """
    parts = _parts(text, option_name, "provider names, or path/to/file.py:NAME, with commas between them")
    try:
        return read_providers([with_family(spec, family, layout) for spec in distinct(parts)], Path.cwd())
    except Faults as error:
        raise UsageError(_message(error.faults, option_name)) from None


def _parts(text: str, option_name: str, allowed: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        nothing = "is empty" if parts == [""] else f"{show(text)} has nothing between two commas or at an end"
        raise UsageError(f"{option_name}: {nothing}; allowed: {allowed}")
    return parts


def _raise(faults: Sequence[str], option_name: str) -> None:
    if faults:
        raise UsageError(_message(faults, option_name))


def _message(faults: Sequence[str], option_name: str) -> str:
    return "\n".join(f"{option_name}: {fault}" for fault in faults)
