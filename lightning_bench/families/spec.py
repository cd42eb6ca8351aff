"""Spec: the axes, dtype and gradient of one input tensor of a family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from lightning_bench.case import Shape


@dataclass(frozen=True)
class Spec:
    """One input tensor: `axes` in layout bhnd, its dtype, and whether a backward pass gives its gradient.

    Axes are `b` batch, `h` heads, `n` seq_len, `d` head_dim, `e` value_dim, `r` the rows of states (head_dim
    of each packed document, or of the one sequence that there is) and those of the family's `sizes`.
    `h` must be among them. Layout bnhd exchanges h and n where a tensor has both. `dtype` is None for the
    dtype of the case. `of_kv` says that the heads are those of k and v, which may be fewer.
    """

    axes: str
    dtype: Literal["fp32", "int64"] | None = None
    gradient: bool = True
    of_kv: bool = False

    def shape(self, shape: Shape, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Return the tensor's sizes in layout bhnd; `sizes` has the lengths of the family's own axes."""
        lengths = {
            "b": shape.batch,
            "h": shape.kv_heads if self.of_kv else shape.heads,
            "n": shape.seq_len,
            "d": shape.head_dim,
            "e": shape.value_dim,
            "r": max(1, len(shape.variant.documents)) * shape.head_dim,
            **sizes,
        }
        return tuple(lengths[axis] for axis in self.axes)

    @property
    def has_rows(self) -> bool:
        """Whether it has many rows per batch and head: one per token, or those of states."""
        return "n" in self.axes or "r" in self.axes

    @property
    def turns(self) -> bool:
        """Whether layout bnhd holds the tensor in another order than bhnd."""
        return "h" in self.axes and "n" in self.axes


QKV: dict[str, Spec] = {
    "q": Spec("bhnd"),
    "k": Spec("bhnd", of_kv=True),
    "v": Spec("bhne", of_kv=True),
}
