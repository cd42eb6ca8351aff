"""Slips in what is typed that the parser of options would take in silence, or blame on something else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_bench.errors import UsageError

_PIECES = {"of", "+", "x", "*"}  # of '79 of 80' and '96k + 31 x 1k'
_WITH_BLANKS = {"layer", "rank", "packing"}


_MEANT = {
    "--kernel": (
        "--provider",
        "name a function by --provider: file.py:NAME@FAMILY to measure it, NAME in rows",
    ),
    "--family": ("--provider", "a function has its family behind its name: --provider file.py:NAME@FAMILY"),
    "--seq-len": ("--prompt", "the tokens of a prompt are --prompt, those that follow --new-tokens"),
    "--prompt": ("--seq-len", "the tokens of a sequence are --seq-len here"),
    "--batch": ("--tokens", "as many sequences are in a batch as --tokens hold"),
}
"""Options of other commands: the option that a command has in their place, and what it is for."""


def refuse_other_commands_options(command: str, words: Iterable[str], options: Container[str]) -> None:
    """Raise UsageError for an option that only other commands have, and say what this command has instead.

    `words` are what is typed, `options` those that the command has.
    """
    for word in words:
        name = word.partition("=")[0]
        instead, what = _MEANT.get(name, ("", ""))
        if instead in options and name not in options:
            raise UsageError(f"`lbench {command}` has no option {name}: {what}")


def refuse_slips(values: Mapping[str, Any], surplus: Sequence[str], given: Sequence[Any]) -> None:
    """Raise UsageError for a slip in what the parser of a command returns.

    That is the values by the names of parameters, the words of no parameter, and the parameters as they
    follow each other, those given twice twice.
    """
    _refuse_repeated(given)
    taken = [values[each.name] for each in given if each.param_type_name == "argument"]
    words = [word for value in taken for word in ([value] if isinstance(value, str) else value or ())]
    _refuse_unquoted(given, [*words, *surplus])


def _refuse_repeated(given: Iterable[Any]) -> None:
    """Raise UsageError if an option that has one value is among the parameters twice: the last would win."""
    for parameter, count in Counter(given).items():
        has_one_value = parameter.param_type_name == "option" and not (
            parameter.multiple or parameter.is_flag
        )
        if count > 1 and has_one_value:
            raise UsageError(f"{parameter.opts[0]} is given {count} times; allowed: once")


def _refuse_unquoted(given: Iterable[Any], arguments: Iterable[str]) -> None:
    """Raise UsageError if an argument is a piece of a value with blanks, and such an option is given."""
    if _WITH_BLANKS.isdisjoint(parameter.name for parameter in given):
        return
    for word in arguments:
        if word in _PIECES and not Path(word).exists():
            raise UsageError(
                f"{word!r} stands alone: put a value with blanks in quotes, such as --layer '79 of 80', "
                "--rank '7 of 8' or --packing '96k + 31 x 1k'"
            )
