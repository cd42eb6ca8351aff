"""Packed documents in the oracle: each is solved by itself, so that its first token finds a zero state."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_bench.families.definition import Definition, Problem


def solve_packed(
    defined: Definition, problem: Problem, *, gradients: bool, output_dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """Return what `Definition.solve` does for each document of the problem, put back in their places.

    Documents of one length are solved together. The gradient of an input without tokens sums over documents.
    """
    if not problem.documents:
        return defined.solve(problem, gradients=gradients, output_dtype=output_dtype)
    pairs = problem.q.shape[0]
    starts: dict[int, list[int]] = {}
    start = 0
    for length in problem.documents:
        starts.setdefault(length, []).append(start)
        start += length
    found: dict[str, Tensor] = {}
    for length, begins in starts.items():
        count = len(begins)
        tokens = torch.arange(length, device=problem.q.device)
        index = (torch.tensor(begins, device=tokens.device)[:, None] + tokens).flatten()
        part = {
            name: problem[name][:, index].unflatten(1, (count, length)).flatten(0, 1)
            if _has_tokens(defined, name)
            else problem[name].repeat_interleave(count, 0)
            for name in problem.names
        }
        solved = defined.solve(
            problem.replaced(part).unpacked(), gradients=gradients, output_dtype=output_dtype
        )
        for name, x in solved.items():
            by_document = x.unflatten(0, (pairs, count))
            if not _has_tokens(defined, name.removeprefix("d")):
                found[name] = found.get(name, 0) + by_document.sum(1)
                continue
            if name not in found:
                found[name] = x.new_empty(pairs, start, *x.shape[2:])
            found[name][:, index] = by_document.flatten(1, 2)
    return found


def _has_tokens(defined: Definition, name: str) -> bool:
    """Return whether an input, or `o` or the gradient of o, `do`, has a value for each token."""
    if name in ("o", "do"):
        return True
    return name in defined.inputs and "n" in defined.inputs[name].axes
