"""Attention as users of the Python API pass it: functions and a class, written with methods of tensors only.

So what they declare is asked in a process that need not import torch, or all that a test file imports.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from lightning_bench.providers import Inputs, Provider

if TYPE_CHECKING:
    from torch import Tensor


def attn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Compute causal softmax attention."""
    weights = (q @ k.mT * q.shape[-1] ** -0.5).exp().tril()
    return weights @ v / weights.sum(-1, keepdim=True)


def no_mask(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Compute attention without a mask: wrong for `softmax`, right for `softmax_full`."""
    return (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v


class Mine(Provider):
    """A provider of this module."""

    name, label, family, package = "mine", "Mine", "softmax", "torch"
    devices, dtypes = ("cpu",), ("fp32",)

    def build(self, inputs: Inputs) -> Callable[[], Tensor]:
        """Return the call."""
        return lambda: attn(inputs.q, inputs.k, inputs.v)
