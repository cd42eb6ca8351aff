"""FLOP and byte models of attention, and what follows from them and a device's ceilings: floors, bounds.

The models count what any implementation must do, not what a given one does: inputs read once, outputs
written once, and the arithmetic of the family's cheapest exact form. docs/roofline.md derives them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lightning_bench.case import Direction, Family, Shape
from lightning_bench.families import definition

Bound = Literal["bytes", "flops"]

# A figure may beat the measured ceiling by this much before it is called impossible: clocks move by a few
# per cent, and a kernel that mostly reads runs a little faster than the copy that measured the ceiling.
CEILING_TOLERANCE = 1.15


@dataclass(frozen=True)
class Ceilings:
    """What this device reached: copy bandwidth in GB/s, matmul rate in TFLOP/s, and its L2 in bytes."""

    gbps: float
    tflops: float
    l2_bytes: int


def read_bytes(family: Family, shape: Shape, direction: Direction) -> int:
    """Bytes that must be read: q, k, v, the family's other inputs, and backward the output's gradient."""
    return definition(family).read_bytes(shape, direction)


def write_bytes(family: Family, shape: Shape, direction: Direction) -> int:
    """Bytes that must be written: the output, the gradients of all inputs that have one, or both."""
    return definition(family).write_bytes(shape, direction)


def min_bytes(family: Family, shape: Shape, direction: Direction) -> int:
    """Bytes that must cross device memory; without inputs beyond q, k, v 4 U forward and 7 U backward.

    U is one batch·heads·seq_len·head_dim tensor in the case's dtype, where value_dim = head_dim.
    """
    return read_bytes(family, shape, direction) + write_bytes(family, shape, direction)


def min_flops(family: Family, shape: Shape, direction: Direction) -> float:
    """Floating-point operations of the cheapest exact form, as the family's definition counts them."""
    fwd, bwd = definition(family).flops(shape)
    return {"fwd": fwd, "bwd": bwd, "fwd_bwd": fwd + bwd}[direction]


def floor_ms(family: Family, shape: Shape, direction: Direction, ceilings: Ceilings) -> float:
    """The least time that the task can take: the longer of its bytes and its FLOPs at their ceilings."""
    return max(_bytes_ms(family, shape, direction, ceilings), _flops_ms(family, shape, direction, ceilings))


def bound_by(family: Family, shape: Shape, direction: Direction, ceilings: Ceilings) -> Bound:
    """Which of the two makes the floor."""
    bytes_ms = _bytes_ms(family, shape, direction, ceilings)
    return "bytes" if bytes_ms >= _flops_ms(family, shape, direction, ceilings) else "flops"


def _bytes_ms(family: Family, shape: Shape, direction: Direction, ceilings: Ceilings) -> float:
    return min_bytes(family, shape, direction) / ceilings.gbps / 1e6


def _flops_ms(family: Family, shape: Shape, direction: Direction, ceilings: Ceilings) -> float:
    return min_flops(family, shape, direction) / ceilings.tflops / 1e9


def impossible(
    family: Family, shape: Shape, direction: Direction, median_ms: float, ceilings: Ceilings
) -> str | None:
    """Why a time cannot be true on this device, or None: it is below the floor by more than the tolerance.

    Reads always cross device memory, because the L2 is flushed before each sample; writes may still sit
    in the L2 when the clock stops, so as much of them as fits there is left out of the count.
    """
    if shape.device != "cuda":
        return None
    written = write_bytes(family, shape, direction)
    must_move = read_bytes(family, shape, direction) + max(0, written - ceilings.l2_bytes)
    gbps = must_move / median_ms / 1e6
    if gbps > ceilings.gbps * CEILING_TOLERANCE:
        return f"{gbps:.0f} GB/s is above the {ceilings.gbps:.0f} GB/s that a copy reaches on this device"
    tflops = min_flops(family, shape, direction) / median_ms / 1e9
    if tflops > ceilings.tflops * CEILING_TOLERANCE:
        return f"{tflops:.0f} TFLOP/s is above the {ceilings.tflops:.0f} that a matmul reaches on this device"
    return None


def plan_bytes(family: Family, shape: Shape, direction: Direction) -> int:
    """Bytes that a case needs at least: inputs, output, and for a backward pass as much for gradients."""
    held = read_bytes(family, shape, "fwd") + write_bytes(family, shape, "fwd")
    if direction == "fwd":
        return held
    return held + shape.output_bytes + write_bytes(family, shape, "bwd")
