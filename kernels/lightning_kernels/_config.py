"""Tile sizes, warps and stages of the kernels: plain functions of dims and dtype, no autotuning."""

from dataclasses import dataclass
from functools import cache

import torch

LARGEST_SHARED_BYTES = 232448
"""Shared memory that one program may take on compute capability 9.0; 166912 on 8.0 and 101376 on 8.9."""


@cache
def shared_limit(device: int) -> int:
    """Return how many bytes of shared memory a program may take on a CUDA device; -1 stands for an H200."""
    if device < 0:
        return LARGEST_SHARED_BYTES
    properties = torch.cuda.get_device_properties(device)
    return int(properties.shared_memory_per_block_optin)  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class Tiles:
    """How one kernel launch is cut up; blocks are powers of two of at least 16."""

    block: int
    block_d: int
    block_e: int
    split_e: int
    warps: int
    stages: int
    precision: str = "ieee"
    """Triton's `input_precision` of fp32 products: "ieee", "tf32x3" or "tf32"."""

    def __str__(self) -> str:
        return f"block={self.block} warps={self.warps} stages={self.stages} split_e={self.split_e}"


@cache
def lightning2_tiles(head_dim: int, value_dim: int, dtype: torch.dtype, shared_limit: int) -> Tiles:
    """Choose the tiles of the one-pass kernel, whose state is [block_e, block_d] in fp32 registers.

    They fit `shared_limit` bytes of shared memory a program, at least the 101376 of compute capability 8.9.
    """
    block_d, whole_e = _padded(head_dim), _padded(value_dim)
    if dtype == torch.float32:
        # fp32 dots run on the plain units and unroll: larger tiles spill by kilobytes.
        block, block_e = 16, min(whole_e, 64 if block_d <= 128 else 32)
        warps, stages = (8 if block_e == 64 else 4), 2
    elif block_d == 256:
        block, block_e = 32, min(whole_e, 64)
        warps, stages = 8, 2
    else:
        block, block_e = 64, min(whole_e, 128)
        small = block_d * block_e <= 64 * 64
        warps, stages = (4, 4) if small else (8, 3)
    stage_bytes = block * (2 * block_d + block_e) * dtype.itemsize
    while stages > 1 and stages * stage_bytes > shared_limit:
        stages -= 1
    return Tiles(block, block_d, block_e, -(-value_dim // block_e), warps, stages)


def lightning1_tiles(head_dim: int, value_dim: int, dtype: torch.dtype) -> Tiles:
    """Choose the tiles of the quadratic kernel, whose sum is [block, block_e] in fp32 registers."""
    block_d, whole_e = _padded(head_dim), _padded(value_dim)
    if dtype == torch.float32:
        block, block_e, warps, stages = 32, min(whole_e, 64), 8, 1
    else:
        block, block_e = 64, min(whole_e, 128)
        warps, stages = 4, (2 if block_d == 256 else 3)
    return Tiles(block, block_d, block_e, -(-value_dim // block_e), warps, stages)


def _padded(dim: int) -> int:
    return max(16, 1 << (dim - 1).bit_length())
