"""Values of a row as it holds them: figures, times, counts, sizes, texts. One that no row holds raises."""

from __future__ import annotations

import math
import operator
import re
from typing import Any

from lightning_bench.model_run import read_compiled, read_parallel, read_recomputed
from lightning_bench.record.codec import LARGEST
from lightning_bench.variant import packing_text, part_text, read_packing, read_part

_LONGEST_TEXT = 2000  # a compiler's error can be longer than a CSV reader takes
_SHORTEST_MS, _LONGEST_MS = 1e-12, 1e15
# Control characters, all that some reader takes for the end of a line, what turns text around (Unicode's
# bidirectional controls), and what XML cannot hold.
_STEERING = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufffe\uffff]+")


def tidy_figure(value: Any) -> float | None:
    """Return a figure to twelve digits; None if it is not finite or larger than a row holds."""
    if value is None or not math.isfinite(value) or abs(float(value)) > LARGEST:
        return None
    return float(format(float(value), ".12g"))


def tidy_time(value: Any) -> float | None:
    """Return a time in ms; None if it is not above 0."""
    time = tidy_figure(value)
    return time if time is not None and _SHORTEST_MS <= time <= _LONGEST_MS else None


def tidy_count(value: Any) -> int | None:
    """Return a whole number from 0, or None."""
    return None if value is None else _within(0, value, 2**63 - 1)


def tidy_size(value: Any) -> int:
    """Return a size from 1."""
    return _within(1, value, 2**31 - 1)


def tidy_unstated_size(value: Any) -> int:
    """Return a size; 0 is that of a published figure of a whole model, whose shape was not stated."""
    return _within(0, value, 2**31 - 1)


def tidy_layer(value: str) -> str:
    """Return a layer as a row has it."""
    return part_text(read_part(value, "layer"))


def tidy_rank(value: str) -> str:
    """Return a rank as a row has it."""
    return part_text(read_part(value, "rank"))


def tidy_compiled(value: str) -> str:
    """Return the word for what is compiled."""
    return read_compiled(one_line(value))


def tidy_recomputed(value: str) -> str:
    """Return the word for what is recomputed."""
    return read_recomputed(one_line(value))


def tidy_parallel(value: str) -> str:
    """Return the word for how ranks share the work."""
    return read_parallel(one_line(value))


def tidy_packing(value: str) -> str:
    """Return lengths of documents as a row has them."""
    return packing_text(read_packing(value))


def _within(least: int, value: Any, most: int) -> int:
    number = operator.index(value)
    if not least <= number <= most:
        raise ValueError(f"{number} is out of range; allowed: from {least} to {most}")
    return number


def one_line(value: str) -> str:
    """Return a text as a row holds it: in one line, at most 2000 characters, none that steers its reader."""
    if len(value) <= _LONGEST_TEXT and value.isascii() and value.isprintable():
        return value.strip()
    text = value.encode(errors="backslashreplace").decode()
    return _STEERING.sub(" ", text).strip()[:_LONGEST_TEXT].strip()
