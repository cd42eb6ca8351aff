"""The tensors that the providers of one shape share: seeded, normal, one set per layout."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_bench.case import Dtype, Layout, Shape
from lightning_bench.providers.base import Inputs

TORCH_DTYPES: dict[Dtype, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}


def decay_slopes(heads: int) -> Tensor:
    """Slopes of TransNormerLLM, s_i = 2^(−8(i+1)/heads), fp32, [heads], on the CPU.

    Where heads is no power of two, the slopes of the next lower power come first and every second one of
    the next higher power follows (ALiBi, arXiv 2108.12409). Written here and not taken from the bundled
    kernels: the judge must not share its inputs with the judged.
    """

    def powers(count: int) -> list[float]:
        return [2.0 ** (-8.0 * (i + 1) / count) for i in range(count)]

    lower = 2 ** (heads.bit_length() - 1)
    slopes = powers(lower) + powers(2 * lower)[0::2][: heads - lower]
    return torch.tensor(slopes, dtype=torch.float32)


class InputSet:
    """q, k, v and the output's gradient for one shape, in every layout that is asked for.

    Values are standard normal from a fixed seed, rounded to the shape's dtype. The layouts hold the same
    values, each contiguous in its own order.
    """

    def __init__(self, shape: Shape, seed: int) -> None:
        self.shape = shape
        generator = torch.Generator(device=shape.device).manual_seed(seed)
        dtype = TORCH_DTYPES[shape.dtype]

        def normal(dim: int) -> Tensor:
            size = (shape.batch, shape.heads, shape.seq_len, dim)
            return torch.randn(size, generator=generator, device=shape.device, dtype=dtype)

        self.q, self.k = normal(shape.head_dim), normal(shape.head_dim)
        self.v, self.do = normal(shape.value_dim), normal(shape.value_dim)
        self.decay = decay_slopes(shape.heads).to(shape.device)
        self._layouts: dict[Layout, tuple[Inputs, Tensor]] = {}

    def inputs(self, layout: Layout) -> Inputs:
        """Leaf tensors that require gradients, [b, h, n, d] or [b, n, h, d]."""
        return self._layout(layout)[0]

    def grad_output(self, layout: Layout) -> Tensor:
        """The gradient that flows into the output, in the same layout."""
        return self._layout(layout)[1]

    def checksums(self, layout: Layout) -> dict[str, float]:
        """A sum in fp64 of each tensor: it tells whether a provider has written to its inputs."""
        given, do = self._layout(layout)
        tensors = {"q": given.q, "k": given.k, "v": given.v, "the gradient of o": do}
        return {name: x.detach().sum(dtype=torch.float64).item() for name, x in tensors.items()}

    @property
    def held_bytes(self) -> int:
        """Bytes of all layouts made so far."""
        once = sum(x.numel() * x.element_size() for x in (self.q, self.k, self.v, self.do))
        return once * (1 + sum(layout != "bhnd" for layout in self._layouts))

    def _layout(self, layout: Layout) -> tuple[Inputs, Tensor]:
        if layout not in self._layouts:
            q, k, v, do = (
                x.detach() if layout == "bhnd" else x.transpose(1, 2).contiguous()
                for x in (self.q, self.k, self.v, self.do)
            )
            leaves = Inputs(q.requires_grad_(), k.requires_grad_(), v.requires_grad_(), self.decay)
            self._layouts[layout] = (leaves, do)
        return self._layouts[layout]
