"""From the dtype names of a case to torch's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_bench.case import Dtype

if TYPE_CHECKING:
    import torch

NAMES: dict[Dtype, str] = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def torch_dtype(dtype: Dtype) -> torch.dtype:
    """The torch dtype of that name. Imports torch on the first call."""
    import torch

    found: torch.dtype = getattr(torch, NAMES[dtype])
    return found
