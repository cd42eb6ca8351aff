"""What the command line and Python put in place of a suite's axes, read as a suite reads them."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from lightning_bench.case import DIRECTIONS, DTYPES, Direction, Dtype
from lightning_bench.errors import UsageError
from lightning_bench.model_run import COMPILE_WORDS, PARALLEL_WORDS, RECOMPUTE_WORDS
from lightning_bench.models.model_sizes import MODELS
from lightning_bench.suite.axes import (
    Faults,
    distinct,
    read_lengths,
    read_packings,
    read_parts,
    read_providers,
    read_several,
    read_words,
)

_SPECS = {"providers": "--provider", "added": "--provider", "kernels": "--kernel"}
"""The fields of `Overrides` that name providers, and the options that set them."""

_WORDS: dict[str, tuple[str, ...]] = {
    "direction": DIRECTIONS,
    "dtype": DTYPES,
    "model": tuple(MODELS),
    "compile": COMPILE_WORDS,
    "recompute": RECOMPUTE_WORDS,
    "parallel": PARALLEL_WORDS,
}


@dataclass(frozen=True)
class Overrides:
    """Axes that replace those of every group; None leaves an axis as the suite has it.

    A provider or a model that groups of the suite name runs only in these groups, any other in every group.
    Those `added` join the providers of the groups that have one of their family. `kernels` run together with
    `providers` in every group that has a provider of a kernel's family. In a suite without that family both
    run in every group. `packing` replaces `seq_len` too.
    """

    providers: tuple[str, ...] | None = None
    added: tuple[str, ...] | None = None
    kernels: tuple[str, ...] | None = None
    direction: tuple[Direction, ...] | None = None
    dtype: tuple[Dtype, ...] | None = None
    batch: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None
    seq_len: tuple[int, ...] | None = None
    head_dim: tuple[int, ...] | None = None
    value_dim: tuple[int, ...] | None = None
    kv_heads: tuple[int, ...] | None = None
    layer: tuple[str, ...] | None = None
    rank: tuple[str, ...] | None = None
    packing: tuple[str, ...] | None = None
    ranks: tuple[int, ...] | None = None
    model: tuple[str, ...] | None = None
    tokens: tuple[int, ...] | None = None
    compile: tuple[str, ...] | None = None
    recompute: tuple[str, ...] | None = None
    prompt: tuple[int, ...] | None = None
    new_tokens: tuple[int, ...] | None = None
    parallel: tuple[str, ...] | None = None


def checked_overrides(overrides: Overrides) -> Overrides:
    """Return the axes as rows have them. UsageError names every option of the command line that is wrong."""
    faults: list[str] = []
    checked: dict[str, Any] = {}
    for axis in (field.name for field in fields(Overrides)):
        values = getattr(overrides, axis)
        if values is None:
            continue
        try:
            checked[axis] = _read(axis, values)
        except Faults as error:
            option = _SPECS.get(axis) or "--" + axis.replace("_", "-")
            faults += [f"{option}: {fault}" for fault in error.faults]
    if faults:
        raise UsageError("\n".join(faults))
    return replace(overrides, **checked)


def _read(axis: str, values: tuple[str, ...] | tuple[int, ...]) -> tuple[str, ...] | tuple[int, ...]:
    once = distinct(values)
    if axis in _SPECS:
        return read_providers(once, Path.cwd())
    if axis in _WORDS:
        return read_words(once, _WORDS[axis])
    if axis in ("prompt", "new_tokens"):
        return read_several(once)
    if axis == "layer":
        return read_parts(once, "layer")
    if axis == "rank":
        return read_parts(once, "rank")
    return read_packings(once) if axis == "packing" else read_lengths(once)
