"""Random numbers for a family's inputs: seeded by the family's name, so that no family depends on another."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

from lightning_bench.case import Family, Shape
from lightning_bench.families.base import Spec


class Draw:
    """Tensors in layout bhnd, fp32, on the shape's device; ``q``, ``k``, ``v`` are those of all families."""

    def __init__(
        self, family: Family, shape: Shape, seed: int, sizes: dict[str, int], q: Tensor, k: Tensor, v: Tensor
    ) -> None:
        self.shape, self.q, self.k, self.v = shape, q, k, v
        self.sizes = sizes
        own = zlib.crc32(f"{family} {seed}".encode())  # the CPU's generator reads 32 bits of it
        self._generator = torch.Generator(device=shape.device).manual_seed(own)

    def normal(self, axes: str) -> Tensor:
        """Standard normal."""
        size = Spec(axes).shape(self.shape, self.sizes)
        return torch.randn(size, generator=self._generator, device=self.shape.device)

    def uniform(self, axes: str, low: float, high: float) -> Tensor:
        """Uniform between two bounds."""
        size = Spec(axes).shape(self.shape, self.sizes)
        return low + (high - low) * torch.rand(size, generator=self._generator, device=self.shape.device)

    def steps(self, axis: str) -> Tensor:
        """0, 1, 2, … along one axis, fp32."""
        (length,) = Spec(axis).shape(self.shape, self.sizes)
        return torch.arange(length, dtype=torch.float32, device=self.shape.device)
