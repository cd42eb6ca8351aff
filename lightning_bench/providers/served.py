"""The base of providers of family `serving`: the batch as engines pack it, and where its states are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from lightning_bench.case import Direction, Family, Layout, Shape
from lightning_bench.providers.registry.base import Inputs, Provider

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """A batch of sequences, packed one after the other.

    q, k [tokens, heads, head_dim] and v [tokens, kv_heads, value_dim] are views of the inputs; `bounds` is
    int32 [sequences + 1]. `pool` and `slots` are as in `Inputs`, `longest` is the most tokens of a sequence.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    slopes: Tensor
    pool: Tensor
    slots: Tensor
    bounds: Tensor
    longest: int
    as_given: Callable[[Tensor], Tensor]
    """Returns o [tokens, heads, value_dim] as v is, [batch, seq_len, heads, value_dim]."""

    def carried(self, call: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Callable[[], Tensor]:
        """Return a call for a library without pools: torch copies the states out of the pool and back.

        `call` takes the states of the sequences, [sequences, heads, ...], and returns o and the next states;
        o has as many elements as v of all heads.
        """
        index, pool, size = self.slots.long(), self.pool, (-1, self.q.shape[1], self.v.shape[2])

        def served() -> Tensor:
            o, states = call(pool[index])
            pool.index_copy_(0, index, states)
            return self.as_given(o.reshape(size))

        return served

    @property
    def lengths(self) -> list[int]:
        """The tokens of each sequence, on the host."""
        lengths: list[int] = self.bounds.diff().tolist()
        return lengths


def batch_of(inputs: Inputs) -> Batch:
    """Return the batch that inputs of layout bnhd are."""
    import torch

    batch, n = inputs.q.shape[:2]
    bounds = inputs.cu_seqlens
    if bounds is None:
        longest = n
        bounds = torch.arange(0, batch * n + 1, n, dtype=torch.int32, device=inputs.q.device)
    else:
        longest = int(bounds.diff().max())
    q, k, v = (x.detach().flatten(0, 1) for x in (inputs.q, inputs.k, inputs.v))
    return Batch(
        q, k, v, inputs.decay, inputs["state"], inputs["slots"], bounds, longest,
        lambda o: o.unflatten(0, (batch, n)),
    )  # fmt: skip


class ServedProvider(Provider):
    """A provider of `serving`, forward only.

    `one_token` says that it takes one token of each sequence, `square` that value_dim must be head_dim, and
    `head_dims` of which number head_dim must be a multiple.
    """

    family: ClassVar[Family] = "serving"
    layout: ClassVar[Layout] = "bnhd"
    directions: ClassVar[tuple[Direction, ...]] = ("fwd",)
    one_token: ClassVar[bool] = False
    square: ClassVar[bool] = False
    head_dims: ClassVar[int] = 1

    def unsupported(self, shape: Shape, direction: Direction) -> str | None:
        """Return why this case is not supported, or None."""
        reason = super().unsupported(shape, direction)
        if reason is None and self.one_token and (shape.seq_len != 1 or shape.variant.documents):
            return f"{self.name} takes one token of each sequence (seq_len 1), not {shape.seq_len}"
        if reason is None and self.square and shape.value_dim != shape.head_dim:
            return f"{self.name} takes value_dim equal to head_dim {shape.head_dim}, not {shape.value_dim}"
        if reason is None and shape.head_dim % self.head_dims:
            return f"{self.name} takes multiples of {self.head_dims} as head_dim, not {shape.head_dim}"
        return reason

    def build(self, inputs: Inputs) -> Callable[[], Tensor]:
        """Return a call that computes the output [b, n, h, value_dim] and updates the pool."""
        return self.serve(batch_of(inputs))

    def serve(self, batch: Batch) -> Callable[[], Tensor]:
        """Return the call that computes a batch."""
        raise NotImplementedError(f"provider {self.name} does not implement serve()")
