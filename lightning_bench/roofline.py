"""FLOP and byte models of attention, and the ceilings measured on this device.

The models count what any implementation must do, not what a given one does: inputs read once, outputs
written once, and the arithmetic of the family's cheapest exact form.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lightning_bench.case import Device, Direction, Dtype, Family, Shape

if TYPE_CHECKING:
    from collections.abc import Callable

# A figure may beat the measured ceiling by this much before it is called impossible: clocks move by a few
# per cent, and a kernel that mostly reads runs a little faster than the copy that measured the ceiling.
CEILING_TOLERANCE = 1.15


@dataclass(frozen=True)
class Ceilings:
    """What this device reached: copy bandwidth in GB/s, matmul rate in TFLOP/s, and its L2 in bytes."""

    gbps: float
    tflops: float
    l2_bytes: int


def read_bytes(shape: Shape, direction: Direction) -> int:
    """Bytes that must be read: q, k, v, and for a backward pass the gradient of the output."""
    fwd = shape.input_bytes
    bwd = shape.input_bytes + shape.output_bytes
    return {"fwd": fwd, "bwd": bwd, "fwd_bwd": fwd + bwd}[direction]


def write_bytes(shape: Shape, direction: Direction) -> int:
    """Bytes that must be written: the output, the gradients of q, k and v, or both."""
    return {
        "fwd": shape.output_bytes,
        "bwd": shape.input_bytes,
        "fwd_bwd": shape.output_bytes + shape.input_bytes,
    }[direction]


def min_bytes(shape: Shape, direction: Direction) -> int:
    """Bytes that must cross device memory: 4 U forward and 7 U backward where value_dim = head_dim.

    U is one batch·heads·seq_len·head_dim tensor in the case's dtype.
    """
    return read_bytes(shape, direction) + write_bytes(shape, direction)


def min_flops(family: Family, shape: Shape, direction: Direction) -> float:
    """Floating-point operations of the cheapest exact form.

    Linear families, per token and head: 4·head_dim·value_dim forward (update the state, read it), three
    times that backward (three linear attentions). Softmax with the causal mask: two products over n²/2
    pairs forward, 2.5 times that backward (FlashAttention-2, arXiv 2307.08691, section 4.1).
    """
    tokens = shape.batch * shape.heads * shape.seq_len
    if family == "softmax":
        fwd = tokens * shape.seq_len * (shape.head_dim + shape.value_dim)
        bwd = 2.5 * fwd
    else:
        fwd = tokens * 4 * shape.head_dim * shape.value_dim
        bwd = 3.0 * fwd
    return float({"fwd": fwd, "bwd": bwd, "fwd_bwd": fwd + bwd}[direction])


def floor_ms(shape: Shape, direction: Direction, ceilings: Ceilings) -> float:
    """The least time that moving the bytes takes at the measured copy bandwidth."""
    return min_bytes(shape, direction) / ceilings.gbps / 1e6


def impossible(
    family: Family, shape: Shape, direction: Direction, median_ms: float, ceilings: Ceilings
) -> str | None:
    """Why a time cannot be true on this device, or None.

    Reads always cross device memory, because the L2 is flushed before each sample; writes may still sit
    in the L2 when the clock stops, so as much of them as fits there is left out of the count.
    """
    if shape.device != "cuda":
        return None
    must_move = read_bytes(shape, direction) + max(0, write_bytes(shape, direction) - ceilings.l2_bytes)
    gbps = must_move / median_ms / 1e6
    if gbps > ceilings.gbps * CEILING_TOLERANCE:
        return f"{gbps:.0f} GB/s is above the {ceilings.gbps:.0f} GB/s that a copy reaches on this device"
    tflops = min_flops(family, shape, direction) / median_ms / 1e9
    if tflops > ceilings.tflops * CEILING_TOLERANCE:
        return f"{tflops:.0f} TFLOP/s is above the {ceilings.tflops:.0f} that a matmul reaches on this device"
    return None


def measure_ceilings(device: Device, dtype: Dtype) -> Ceilings:
    """Time a large copy and a large matmul on random data (the best of several runs of each)."""
    import torch

    cuda = device == "cuda"
    copy_bytes, size = (2**30, 8192) if cuda else (2**26, 768)
    l2_bytes = torch.cuda.get_device_properties(0).L2_cache_size if cuda else 0
    return Ceilings(
        gbps=2 * copy_bytes / _copy_ms(device, copy_bytes) / 1e6,
        tflops=2 * size**3 / _matmul_ms(device, dtype, size) / 1e9,
        l2_bytes=l2_bytes,
    )


def _copy_ms(device: Device, size_bytes: int) -> float:
    import torch

    source = torch.randn(size_bytes // 4, device=device)
    target = torch.empty_like(source)
    return _best_ms(lambda: target.copy_(source), 10, device)


def _matmul_ms(device: Device, dtype: Dtype, size: int) -> float:
    import torch

    torch_dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
    a = torch.randn(size, size, device=device).to(torch_dtype)
    b = torch.randn(size, size, device=device).to(torch_dtype)
    # fp32 kernels may reach exact results through three TF32 products, so TF32 is the ceiling there.
    tf32 = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        return _best_ms(lambda: a @ b, 5, device)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = tf32


def _best_ms(fn: Callable[[], object], repeats: int, device: Device) -> float:
    import torch

    fn()
    times: list[float] = []
    for _ in range(repeats):
        if device == "cuda":
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            fn()
            end.record()
            end.synchronize()
            times.append(float(start.elapsed_time(end)))
        else:
            begin = time.perf_counter()
            fn()
            times.append((time.perf_counter() - begin) * 1e3)
    return min(times)


def plan_bytes(shape: Shape, direction: Direction) -> int:
    """Bytes that a case needs at least: inputs, output, and for a backward pass four gradients."""
    held = shape.input_bytes + shape.output_bytes
    if direction == "fwd":
        return held
    return 2 * held
