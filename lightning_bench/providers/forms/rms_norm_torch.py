"""PyTorch's own RMS norm."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from lightning_bench.case import DTYPES
from lightning_bench.providers.registry.base import Inputs, Provider

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


class RmsNormTorch(Provider):
    """`torch.nn.functional.rms_norm` without a weight, eps 1e-6."""

    name = "rms-norm-torch"
    label = "F.rms_norm"
    family = "norm"
    package = "torch"
    devices = ("cuda", "cpu")
    dtypes = DTYPES
    summary = "torch.nn.functional.rms_norm without a weight"

    def build(self, inputs: Inputs) -> Callable[[], Tensor]:
        """Return a call that computes the output, like v."""
        from torch.nn.functional import rms_norm

        return partial(rms_norm, inputs.v, (inputs.v.shape[-1],), None, 1e-6)
