"""Random numbers for a family's inputs, seeded by the family's name: no family depends on another."""

from __future__ import annotations

import math
import zlib

import torch
from torch import Tensor
from torch.nn.functional import softplus

from lightning_bench.case import Family, Shape
from lightning_bench.families.spec import Spec


class Draw:
    """Tensors in layout bhnd, fp32, on the shape's device; those of `common` are q, k, v and decay."""

    def __init__(
        self, family: Family, shape: Shape, seed: int, sizes: dict[str, int], common: tuple[Tensor, ...]
    ) -> None:
        self.shape, self.sizes = shape, sizes
        self.q, self.k, self.v, self.decay = common
        family_seed = zlib.crc32(f"{family} {seed}".encode())  # the CPU's generator reads only 32 bits
        self._generator = torch.Generator(device=shape.device).manual_seed(family_seed)

    def normal(self, axes: str) -> Tensor:
        """Return standard normal numbers of these axes."""
        size = Spec(axes).shape(self.shape, self.sizes)
        return torch.randn(size, generator=self._generator, device=self.shape.device)

    def uniform(self, axes: str, low: float, high: float) -> Tensor:
        """Return numbers of these axes, uniform between two bounds."""
        size = Spec(axes).shape(self.shape, self.sizes)
        return low + (high - low) * torch.rand(size, generator=self._generator, device=self.shape.device)

    def steps(self, axis: str) -> Tensor:
        """Return 0, 1, 2, … along one axis."""
        (length,) = Spec(axis).shape(self.shape, self.sizes)
        return torch.arange(length, dtype=torch.float32, device=self.shape.device)

    def mamba2_log_decay(self, axes: str) -> Tensor:
        """Return log decays −A·softplus(x + bias) of axes `bhn` or `bhnd`, in the ranges of Mamba-2.

        A is uniform in 1…16 per head, softplus(bias) log-uniform in 0.001…0.1 per head (per channel for
        `bhnd`), and x half a normal: the initialisation of the official model.
        """
        per = "hd" if axes.endswith("d") else "h"
        start = self.uniform(per, math.log(0.001), math.log(0.1)).exp()
        bias = start + torch.log(-torch.expm1(-start))  # softplus(bias) = start
        a = self.uniform("h", 1.0, 16.0)
        x = 0.5 * self.normal(axes)
        if per == "h":
            return -a[:, None] * softplus(x + bias[:, None])
        return -a[:, None, None] * softplus(x + bias[:, None])
