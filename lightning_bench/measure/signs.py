"""Signs: the inputs change before every timed call, and the results change with them in a known way.

Each column of v is multiplied by c = ±1, drawn per (batch, head, column), and do by c·t with t = ±1 per head.
Then o changes by c, dv by c·t and every other gradient by t, to the last bit, since a sign commutes with
rounding. States that a call updates in place have the columns' signs before it, and so after it. What an
implementation has kept of an earlier call is then wrong in half of its columns. Heads that
share one of k and v share their signs.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lightning_bench.case import Case, Direction, Family, Shape
from lightning_bench.families import definition_of
from lightning_bench.families.spec import Spec
from lightning_bench.measure.pools import StatePool
from lightning_bench.providers.dtypes import torch_dtype


class SignedTensor:
    """An input whose signs change in place; `signs` are those that it has now, [b or 1, h, 1, e or 1].

    Autograd takes no notice, as it takes none of a kernel that writes to memory. `turned` tells that `data`
    has the layout bnhd.
    """

    def __init__(self, data: Tensor, *, turned: bool) -> None:
        self._data, self._turned = data.data, turned
        self.signs = torch.ones(1, 1, 1, 1, dtype=data.dtype, device=data.device)

    def reset(self) -> None:
        """Give the tensor its own signs back."""
        self.to(torch.ones_like(self.signs[:1, :1, :1, :1]))

    def to(self, signs: Tensor) -> None:
        """Multiply the tensor such that it has these signs."""
        if signs is self.signs:
            return
        change = self.signs * signs
        self._data.mul_(change.transpose(1, 2) if self._turned else change)
        self.signs = signs


@dataclass(frozen=True)
class Signs:
    """Signs of columns `columns` [b, h, 1, e] and of heads `heads` [1, h, 1, 1], or ones of one element.

    Their heads are those of k and v; `group` heads of q share each.
    """

    columns: Tensor
    heads: Tensor
    group: int = 1

    @property
    def of_do(self) -> Tensor:
        """The signs of the gradient of o, [b or 1, h, 1, e or 1]."""
        return self._spread(self.columns * self.heads)

    def of(self, name: str, spec: Spec) -> tuple[Tensor | None, Tensor | None]:
        """Return the signs of columns [b, h, 1, e] and of heads [h] that a result has, or None."""
        updated = "r" in spec.axes
        columns = self.columns if (name in ("o", "dv") or updated) and self.columns.numel() > 1 else None
        heads = self.heads if name != "o" and not updated and "h" in spec.axes else None
        if not spec.of_kv:
            columns, heads = (None if x is None else self._spread(x) for x in (columns, heads))
        return columns, None if heads is None else heads.flatten()

    def _spread(self, signs: Tensor) -> Tensor:
        """Return the signs of the heads of q."""
        each_head = self.group > 1 and signs.shape[1] > 1
        return signs.repeat_interleave(self.group, 1) if each_head else signs


def no_signs(like: Tensor) -> Signs:
    """Return the signs that change nothing, on the device of `like`."""
    one = torch.ones(1, 1, 1, 1, dtype=like.dtype, device=like.device)
    return Signs(one, one)


class SignSource:
    """Draws signs that nobody can foresee. `columns` is False for a family whose o is not odd in v."""

    def __init__(self, shape: Shape, dtype: torch.dtype, *, columns: bool) -> None:
        self._generator = torch.Generator(shape.device).manual_seed(secrets.randbits(63))
        self._columns = (shape.batch, shape.kv_heads, 1, shape.value_dim) if columns else None
        self._heads = (1, shape.kv_heads, 1, 1)
        self._group = shape.group
        self._one = torch.ones(1, 1, 1, 1, dtype=dtype, device=shape.device)

    def draw(self, *, columns: bool, heads: bool) -> Signs:
        """Return random signs of columns, of heads or of both."""
        return Signs(
            self._draw(self._columns) if columns and self._columns else self._one,
            self._draw(self._heads) if heads else self._one,
            self._group,
        )

    def _draw(self, size: tuple[int, ...]) -> Tensor:
        signs = torch.empty(size, dtype=self._one.dtype, device=self._one.device)
        return signs.bernoulli_(0.5, generator=self._generator).mul_(-2).add_(1)


class InputSigns:
    """The signs of v and do of one case: new ones before each call, such that its result stays known.

    A pool is filled with the states before the call, whose columns have the signs of v's.

    A backward pass starts from a graph: the signs of v's columns are `hold`'s until there is another graph.
    """

    def __init__(
        self,
        case: Case,
        family: Family,
        signed: tuple[SignedTensor, SignedTensor],
        pool: StatePool | None = None,
    ) -> None:
        self._direction: Direction = case.direction
        self._pool = pool
        self._v, self._do = signed
        columns = definition_of(family).odd_in_v
        self._source = SignSource(case.shape, torch_dtype(case.shape.dtype), columns=columns)
        self._graph_columns = self._source.draw(columns=False, heads=False).columns

    def reset(self) -> None:
        """Give both tensors their own signs."""
        self._v.reset()
        self._do.reset()

    def own(self) -> Signs:
        """Return the signs that change nothing."""
        return self._source.draw(columns=False, heads=False)

    def hold(self, *, new: bool) -> None:
        """Give v the signs that the graph of a backward pass was, or will be, made with."""
        if self._direction == "bwd":
            if new:
                self._graph_columns = self._source.draw(columns=True, heads=False).columns
            self._v.to(self._graph_columns)

    def change(self) -> Signs:
        """Change the signs of what the call reads and return them."""
        if self._direction == "bwd":
            signs = replace(self._source.draw(columns=False, heads=True), columns=self._graph_columns)
        else:
            signs = self._source.draw(columns=True, heads=self._direction != "fwd")
            self._v.to(signs.columns)
        if self._pool is not None:
            self._pool.fill(signs.columns)
        if self._direction != "fwd":
            self._do.to(signs.of_do)
        return signs
