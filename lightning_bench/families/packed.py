"""Packed documents in the oracle: each is solved by itself, so that its first token finds a zero state."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_bench.families.definition import Definition, Problem


def solve_packed(
    defined: Definition, problem: Problem, *, gradients: bool, output_dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """Return what `Definition.solve` does for each document of the problem, put back in their places.

    Documents of one length are solved together. States are those of their documents. The gradient of another
    input without tokens sums over documents.
    """
    if not problem.documents:
        return defined.solve(problem, gradients=gradients, output_dtype=output_dtype)
    pairs = problem.q.shape[0]
    places: dict[int, list[tuple[int, int]]] = {}
    start = 0
    for number, length in enumerate(problem.documents):
        places.setdefault(length, []).append((number, start))
        start += length
    found: dict[str, Tensor] = {}
    for length, each in places.items():
        count = len(each)
        tokens = torch.arange(length, device=problem.q.device)
        numbers, begins = torch.tensor(each, device=tokens.device).unbind(1)
        index = (begins[:, None] + tokens).flatten()

        def part_of(name: str, index: Tensor = index, numbers: Tensor = numbers) -> Tensor:
            x, count = problem[name], len(numbers)
            if _has_tokens(defined, name):
                x = x[:, index].unflatten(1, (count, -1)).flatten(0, 1)
            elif _has_states(defined, name):
                x = x.unflatten(1, (len(problem.documents), -1))[:, numbers].flatten(0, 1)
            else:
                x = x.repeat_interleave(count, 0)
            return x

        part = {name: part_of(name) for name in problem.names}
        solved = defined.solve(
            problem.replaced(part).unpacked(), gradients=gradients, output_dtype=output_dtype
        )
        for name, x in solved.items():
            by_document = x.unflatten(0, (pairs, count))
            if _has_states(defined, name):
                if name not in found:
                    found[name] = x.new_empty(pairs, len(problem.documents) * x.shape[1], x.shape[2])
                found[name].unflatten(1, (len(problem.documents), -1))[:, numbers] = by_document
                continue
            if not _has_tokens(defined, name.removeprefix("d")):
                found[name] = found.get(name, 0) + by_document.sum(1)
                continue
            if name not in found:
                found[name] = x.new_empty(pairs, start, *x.shape[2:])
            found[name][:, index] = by_document.flatten(1, 2)
    return found


def _has_states(defined: Definition, name: str) -> bool:
    """Return whether an input or a result holds a state for each document."""
    return name in defined.inputs and "r" in defined.inputs[name].axes


def _has_tokens(defined: Definition, name: str) -> bool:
    """Return whether an input, or `o` or the gradient of o, `do`, has a value for each token."""
    if name in ("o", "do"):
        return True
    return name in defined.inputs and "n" in defined.inputs[name].axes
