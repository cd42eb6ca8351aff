"""Transformer-VQ's attention: in linear time, and by its quadratic definition through SDPA."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_bench import __version__
from lightning_bench.case import DTYPES
from lightning_bench.providers.registry.base import Inputs, Provider

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


class VqBlockwise(Provider):
    """Our `vq_attention`: blocks of 512 tokens against the counts and the mean values of codes."""

    name = "vq-blockwise"
    label = "VQ attention (linear time)"
    family = "vq"
    package = "torch"
    devices = ("cuda", "cpu")
    dtypes = DTYPES
    summary = "Transformer-VQ in PyTorch operations, linear in seq_len"

    def version(self) -> str:
        """Return the versions of torch and lightning-bench: a resumed sweep must not mix two of either."""
        torch = super().version()
        return f"{torch}, lightning-bench {__version__}" if torch else ""

    def build(self, inputs: Inputs) -> Callable[[], Tensor]:
        """Return a call that computes the output [b, h, n, value_dim]."""
        from lightning_bench.providers.forms.vq_attention import vq_attention

        return lambda: vq_attention(inputs.q, inputs["codes"], inputs["codebook"], inputs.v)


class VqSdpa(Provider):
    """The quadratic form: keys looked up in the codebook, then SDPA with torch's choice of kernel."""

    name = "vq-sdpa"
    label = "VQ attention (SDPA)"
    family = "vq"
    package = "torch"
    devices = ("cuda", "cpu")
    dtypes = DTYPES
    summary = "the quadratic definition: keys looked up, then SDPA"

    def build(self, inputs: Inputs) -> Callable[[], Tensor]:
        """Return a call that computes the output [b, h, n, value_dim]."""
        import torch
        from torch.nn.functional import embedding, scaled_dot_product_attention

        q, codes, codebook, v = inputs.q, inputs["codes"], inputs["codebook"], inputs.v
        heads, m, _ = codebook.shape
        first = torch.arange(heads, device=codes.device)[:, None] * m

        def forward() -> Tensor:
            rows = codes + first
            return scaled_dot_product_attention(q, embedding(rows, codebook.flatten(0, 1)), v, is_causal=True)

        return forward
