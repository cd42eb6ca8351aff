"""Errors of code that the command line shares, with the arguments of Python in place of its options."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from lightning_bench.errors import LbenchError

_OPTION = re.compile(r"(?<!\S)--([a-z]+(?:-[a-z]+)*)\b|(`[^`]*`)")
_ARGUMENTS = {"time_limit": "time_limit_s"}
"""Arguments that have another name than their option."""


@contextmanager
def python_names() -> Iterator[None]:
    """Let errors that leave the block name `seq_len` and not `--seq-len`; commands in backticks stay."""
    try:
        yield
    except LbenchError as error:
        error.args = (_OPTION.sub(_argument, str(error)),)
        raise


def _argument(match: re.Match[str]) -> str:
    if match[1] is None:
        return match[0]
    name = match[1].replace("-", "_")
    return _ARGUMENTS.get(name, name)
