"""Pools of states that calls update in place: filled anew before every call, and read after it.

A pool has a slot for each sequence, in an order that has nothing to do with theirs, and one more that no call
may touch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_bench.case import Shape

_SPARE = 1.0


class StatePool:
    """The states of one shape as an engine keeps them, in one of two orders.

    `states` is fp32 [slots, heads, head_dim, value_dim], or with `turned` [slots, heads, value_dim,
    head_dim]; `slots` is int32 [sequences]. `origin` [batch, heads, r, value_dim] has what they are before a
    call, where r = sequences of a batch entry · head_dim; it is read at each `fill`.
    """

    def __init__(self, origin: Tensor, shape: Shape, seed: int, *, turned: bool) -> None:
        self._origin, self._shape, self._turned = origin, shape, turned
        sequences = shape.batch * max(1, len(shape.variant.documents))
        order = torch.randperm(sequences + 1, generator=torch.Generator().manual_seed(seed))
        self.slots = order[:-1].to(origin.device, torch.int32)
        self._index, self._spare = order[:-1].to(origin.device), int(order[-1])
        dims = (shape.value_dim, shape.head_dim) if turned else (shape.head_dim, shape.value_dim)
        self.states = torch.empty(sequences + 1, shape.heads, *dims, device=origin.device)
        self.restore()

    def restore(self) -> None:
        """Give all slots, that of no sequence included, what they held at first."""
        self.states[self._spare] = _SPARE
        self.fill(self._origin.new_ones(1, 1, 1, 1))

    def fill(self, signs: Tensor) -> None:
        """Put the states before a call into their slots, with these signs of v's columns.

        `signs` is [batch or 1, kv_heads or 1, 1, value_dim or 1].
        """
        if signs.shape[1] > 1:
            signs = signs.repeat_interleave(self._shape.group, 1)
        states = (self._origin * signs).unflatten(2, (-1, self._shape.head_dim)).transpose(1, 2)
        self._of_sequences.index_copy_(0, self._index, states.flatten(0, 1))

    def left(self) -> Tensor:
        """Return a copy of the states as they are now, with the axes of `origin`."""
        states = self._of_sequences[self._index].unflatten(0, (self._shape.batch, -1))
        rows: Tensor = states.transpose(1, 2).flatten(2, 3).contiguous()
        return rows

    @property
    def untouched(self) -> dict[str, Tensor]:
        """What no call may change, by names for people."""
        which = " (turned)" if self._turned else ""
        return {
            f"the pool in a slot of no sequence{which}": self.states[self._spare],
            f"slots{which}": self.slots,
        }

    @property
    def _of_sequences(self) -> Tensor:
        """The pool [slots, heads, head_dim, value_dim] as a view."""
        return self.states.mT if self._turned else self.states
