"""ModelRun: the whole model that a case runs around its attention, and how: a training step, or generation.

Every fact has a default that stands for attention by itself, a column of the result file, and a part of the
case's id.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

Compiled = Literal["", "parts"]
Recomputed = Literal["", "layers"]
Parallel = Literal["", "ddp", "fsdp2"]

COMPILED: tuple[Compiled, ...] = get_args(Compiled)
RECOMPUTED: tuple[Recomputed, ...] = get_args(Recomputed)
PARALLEL: tuple[Parallel, ...] = get_args(Parallel)
NONE = "none"
"""How a suite writes the blank of each."""
COMPILE_WORDS = tuple(word or NONE for word in COMPILED)
RECOMPUTE_WORDS = tuple(word or NONE for word in RECOMPUTED)
PARALLEL_WORDS = tuple(word or NONE for word in PARALLEL)


@dataclass(frozen=True, order=True)
class ModelRun:
    """What is run: a `model` by its name, blank for none.

    A training step takes as many sequences as `step_tokens` hold, and at least one: the batch follows from
    it. `compile` is `parts` if torch.compile compiles all but the attention, `recompute` is `layers` if the
    backward pass computes each layer again (activation checkpointing). A model that generates continues each
    prompt by `new_tokens`. With `parallel` the ranks of a shape take a step together, one device each: all
    have all weights (`ddp`), or each has a part of them, of their gradients and moments (`fsdp2`).
    """

    model: str = ""
    step_tokens: int = 0
    compile: Compiled = ""
    recompute: Recomputed = ""
    new_tokens: int = 0
    parallel: Parallel = ""

    @classmethod
    def of_columns(
        cls,
        model: str,
        step_tokens: int | None,
        compile: str,
        recompute: str,
        new_tokens: int | None,
        parallel: str,
    ) -> ModelRun:
        """Return the run of a row's columns. Raise ValueError for a word that is not known."""
        words = read_compiled(compile), read_recomputed(recompute)
        return cls(model, step_tokens or 0, *words, new_tokens or 0, read_parallel(parallel))

    @property
    def columns(self) -> dict[str, Any]:
        """The row's columns; a default is a blank."""
        return {
            "model": self.model,
            "step_tokens": self.step_tokens or None,
            "compile": self.compile,
            "recompute": self.recompute,
            "new_tokens": self.new_tokens or None,
            "parallel": self.parallel,
        }

    def __str__(self) -> str:
        parts = [self.model, f"tokens{self.step_tokens}" if self.step_tokens else ""]
        how = {"compile": self.compile, "recompute": self.recompute}
        parts += [f"{name}-{word}" for name, word in how.items() if word]
        parts += [f"new{self.new_tokens}" if self.new_tokens else "", self.parallel]
        return "".join(f"-{part}" for part in parts if part)


NO_MODEL = ModelRun()
"""Attention by itself."""

MODEL_RUN = tuple(NO_MODEL.columns)
"""The columns; a blank is the default."""


def read_compiled(text: str) -> Compiled:
    """Return the word for what is compiled. Raise ValueError."""
    return cast(Compiled, _known(text, COMPILED))


def read_recomputed(text: str) -> Recomputed:
    """Return the word for what is recomputed. Raise ValueError."""
    return cast(Recomputed, _known(text, RECOMPUTED))


def read_parallel(text: str) -> Parallel:
    """Return the word for how ranks share the work. Raise ValueError."""
    return cast(Parallel, _known(text, PARALLEL))


def _known(text: str, allowed: tuple[str, ...]) -> str:
    if text not in allowed:
        words = ", ".join(word or "nothing" for word in allowed)
        raise ValueError(f"{text!r} is not known; allowed: {words}")
    return text
