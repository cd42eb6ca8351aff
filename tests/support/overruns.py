"""Triton kernels that write where they may, and where they may not, beside a right result."""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

from lightning_bench.providers import Inputs, Provider

ELEMENTS = 1000
BLOCK = 1024


@triton.jit
def fill_kernel(out_ptr, n, BLOCK: tl.constexpr):
    """One program writes ones to the first n elements."""
    at = tl.arange(0, BLOCK)
    tl.store(out_ptr + at, 1.0, mask=at < n)


class KeepsWithin(Provider):
    """Fills a scratch tensor to its end."""

    name, label, family, package = "keeps-within", "Keeps within", "softmax", "torch"
    devices, dtypes = ("cuda",), ("fp16", "bf16")
    written = ELEMENTS

    def build(self, inputs: Inputs) -> Callable[[], Tensor]:
        """Return attention, after a kernel that fills scratch."""

        def call() -> Tensor:
            scratch = torch.empty(ELEMENTS, device=inputs.q.device)
            fill_kernel[(1,)](scratch, self.written, BLOCK=BLOCK)
            attend = torch.nn.functional.scaled_dot_product_attention
            return attend(inputs.q, inputs.k, inputs.v, is_causal=True)

        return call


class Overruns(KeepsWithin):
    """Fills it to 96 bytes behind its end, still within the block of torch's allocator."""

    name, label = "overruns", "Overruns"
    written = BLOCK
