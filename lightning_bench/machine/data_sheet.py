"""What data sheets say a GPU's tensor cores do: dense matrix products, without sparsity."""

from __future__ import annotations

from lightning_bench.case import Dtype

_DENSE_TFLOPS: tuple[tuple[str, float], ...] = (
    ("NVIDIA A100", 312.0),
    ("NVIDIA H100 PCIe", 756.0),
    ("NVIDIA H100 NVL", 835.0),
    ("NVIDIA H100", 989.0),
    ("NVIDIA H200", 989.0),
    ("NVIDIA GH200", 989.0),
    ("NVIDIA B200", 2250.0),
)
"""Beginnings of product names, the longer first, and TFLOP/s in fp16 and bf16."""


def dense_tflops(device_name: str, dtype: Dtype) -> float | None:
    """Return the dense rate of a product in fp16 or bf16, TFLOP/s (10^12); None if it is not known.

    For fp32 there is none: the harness measures it without TF32, on the ordinary cores.
    """
    if dtype == "fp32":
        return None
    return next((rate for name, rate in _DENSE_TFLOPS if device_name.startswith(name)), None)


def mfu_percent(tflops: float, device_name: str, dtype: Dtype) -> float | None:
    """Return model FLOPs utilization: a rate in model operations over the data sheet's, per cent."""
    rate = dense_tflops(device_name, dtype)
    return None if rate is None else 100.0 * tflops / rate
