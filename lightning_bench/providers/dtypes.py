"""From the dtype names of a case to those of torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_bench.case import Dtype

if TYPE_CHECKING:
    import torch

_NAMES: dict[Dtype, str] = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def torch_dtype(dtype: Dtype) -> torch.dtype:
    """Return the torch dtype of a case's dtype. Imports torch on the first call."""
    import torch

    result: torch.dtype = getattr(torch, _NAMES[dtype])
    return result
