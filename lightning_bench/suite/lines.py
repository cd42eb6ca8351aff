"""The line of each key of a suite file, so that a fault can point at it."""

from __future__ import annotations

import re
from typing import Any

Location = tuple[int | str, ...]

_STRING = re.compile(r'"""[\s\S]*?"""|' r"'''[\s\S]*?'''")
_HEADER = re.compile(r"\s*\[(\[?)\s*([\w-]+(?:\.[\w-]+)*)\s*\]{1,2}\s*(?:#.*)?")
_KEY = re.compile(r"\s*([\"']?)([\w-]+)\1\s*=")


def line_numbers(text: str, raw: dict[str, Any]) -> dict[Location, int]:
    """Return the lines of tables and keys, each at its location such as `("group", 1, "seq_len")`.

    The result is empty if the file writes its groups in a way that this function does not follow (inline
    tables): no line is better than a wrong one.
    """
    blanked = _STRING.sub(lambda match: '""' + "\n" * match[0].count("\n"), text)
    found: dict[Location, int] = {}
    counts: dict[Location, int] = {}
    table: Location = ()
    for number, line in enumerate(blanked.split("\n"), start=1):
        if header := _HEADER.fullmatch(line):
            table = _enter(header[2].split("."), header[1] == "[", counts)
            found[table] = number
        elif key := _KEY.match(line):
            found.setdefault((*table, key[2]), number)
    for name in ("group", "train", "generate"):
        groups = raw.get(name)
        if isinstance(groups, list) and counts.get((name,), 0) != len(groups):
            return {}
    return found


def nearest_line(found: dict[Location, int], location: Location) -> int | None:
    """Return the line of the location, or of the innermost table around it that has one."""
    for length in range(len(location), 0, -1):
        if location[:length] in found:
            return found[location[:length]]
    return None


def _enter(names: list[str], in_array: bool, counts: dict[Location, int]) -> Location:
    """Return the location of the table of a header; `[[a.b]]` adds a table to the array b of the last a."""
    location: Location = ()
    for depth, name in enumerate(names, start=1):
        location = (*location, name)
        if in_array and depth == len(names):
            counts[location] = counts.get(location, 0) + 1
        if location in counts:
            location = (*location, counts[location] - 1)
    return location
