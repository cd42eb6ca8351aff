"""What timed calls return: whether it is plain tensors of the right kind, each in memory of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_bench.case import Layout
from lightning_bench.measure.inputs import InputSet
from lightning_bench.measure.likeness import Kinds, odd_kind


class Returned:
    """Looks at the results of the timed calls of one case, of which `kinds` says what each must be.

    The last result and the first one of a turn are kept until the turn ends, where there is memory for that
    (`holds`), so that their memory is that of no later one.
    """

    def __init__(self, kinds: Kinds, inputs: InputSet, layout: Layout) -> None:
        self._kinds, self._inputs, self._layout = kinds, inputs, layout
        size = sum(math.prod(shape) * dtype.itemsize for shape, dtype, _ in kinds.values())
        self.holds = not torch.cuda.is_available() or 8 * size < torch.cuda.mem_get_info()[0]
        self._last: Mapping[str, Tensor] | None = None
        self._first_of_turn: Mapping[str, Tensor] | None = None

    def odd(self, result: Mapping[str, Tensor]) -> str | None:
        """Return what is not as it was in the first result, which no look at values would show, or None."""
        last, self._last = self._last, result if self.holds else None
        if (reason := odd_kind("a timed call", result, self._kinds)) is not None:
            return reason
        if (reason := self._inputs.aliased(result, self._layout)) is not None:
            return reason
        held = {_address(x) for x in [*(last or {}).values(), *(self._first_of_turn or {}).values()]}
        if self.holds:
            self._first_of_turn = self._first_of_turn or result
        if again := [name for name, x in result.items() if x.numel() and _address(x) in held]:
            return f"{', '.join(again)} of one call is in the memory of an earlier one that is still in use"
        return None

    def ends(self) -> None:
        """End a turn: let go of its results."""
        self._last = self._first_of_turn = None


def _address(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()
