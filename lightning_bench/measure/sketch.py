"""Sketches: every row of a result by its projections on four random vectors of signs.

An error of a row shows in its projections with its own size (Johnson-Lindenstrauss), so comparing sketches
judges every row of every (batch, head) for the price of reading the result once, and keeps 20 bytes of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_bench.case import Layout, Shape
from lightning_bench.families.definition import Definition
from lightning_bench.families.spec import Spec
from lightning_bench.measure.signs import Signs

_VECTORS = 4
_ELEMENTS_AT_ONCE = 2**26
_WINDOW = 65


@dataclass(frozen=True)
class Sketch:
    """Projections of rows [..., 4] and their norms [...], fp32; of the axes b, h and n those that it has."""

    values: Tensor
    norms: Tensor


class Sketcher:
    """Projects the results of one family and shape on vectors of signs drawn from `seed`."""

    def __init__(self, definition: Definition, shape: Shape, seed: int) -> None:
        self._definition, self._shape = definition, shape
        self._generator = torch.Generator(shape.device).manual_seed(seed)
        self._vectors: dict[int, Tensor] = {}

    def spec(self, name: str) -> Spec:
        """Return the axes of the output `o`, or of the input whose gradient `dNAME` is."""
        return Spec("bhne") if name == "o" else self._definition.inputs[name.removeprefix("d")]

    def sketch(self, name: str, x: Tensor, layout: Layout, signs: Signs) -> Sketch:
        """Return the sketch that the result would have had without these signs of the inputs."""
        spec = self.spec(name)
        rows = self.rows(spec, x.detach(), layout)
        columns, heads = signs.of(name, spec)
        step = max(1, rows.shape[0] * _ELEMENTS_AT_ONCE // max(1, rows.numel()))
        values: list[Tensor] = []
        norms: list[Tensor] = []
        for part in rows.split(step):
            start = len(values) * step
            exact = part.float()
            norms.append(exact.norm(dim=-1))
            if columns is not None:
                exact = exact * columns[start : start + step]
            values.append(self.project(exact))
        value, norm = torch.cat(values), torch.cat(norms)
        if heads is not None:
            after = value.dim() - 1 - spec.axes.index("h")
            value = value * heads.view(-1, *([1] * after))
        return Sketch(value, norm)

    def project(self, rows: Tensor) -> Tensor:
        """Return the projections [..., 4] of rows [..., columns], in their dtype."""
        columns = rows.shape[-1]
        if columns not in self._vectors:
            size = (columns, _VECTORS)
            signs = torch.empty(size, device=rows.device).bernoulli_(0.5, generator=self._generator)
            self._vectors[columns] = signs.mul_(-2).add_(1)
        return rows @ self._vectors[columns].to(rows.dtype)

    def rows(self, spec: Spec, x: Tensor, layout: Layout) -> Tensor:
        """Return x as [b, h, n or r, columns], without the axes that it lacks; layout bnhd as a view."""
        axes = spec.axes
        if layout == "bnhd" and spec.turns:
            x = x.transpose(axes.index("h"), axes.index("n"))
        lead = sum(axis in "bhnr" for axis in axes)
        return x.flatten(lead) if x.dim() > lead else x.unsqueeze(-1)


def row_scale(norms: Tensor, budget: float, least: float, *, along_n: bool) -> Tensor:
    """Return the error that is allowed in each row, [...]: `budget` times its norm, or its neighbours'.

    A row that is shorter than its neighbours is the sum of terms that cancel: their rounding stays. Rows that
    are shorter than `least` are judged as if they were so long.
    """
    scale = norms
    if along_n and norms.shape[-1] > 1:
        squares = norms.square().reshape(-1, 1, norms.shape[-1])
        near = torch.nn.functional.avg_pool1d(
            squares, _WINDOW, stride=1, padding=_WINDOW // 2, count_include_pad=False
        )
        scale = torch.maximum(norms, near.sqrt().reshape(norms.shape))
    return budget * scale.clamp_min(least)


def excess(difference: Tensor, scale: Tensor) -> Tensor:
    """Return the size that each row of a difference [..., 4] shows over `scale` [...]; Inf for NaN."""
    ratio = difference.square().mean(-1).sqrt() / scale
    return torch.nan_to_num(ratio, nan=torch.inf)
