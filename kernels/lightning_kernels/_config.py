"""Tile sizes, warps and stages of the kernels: plain functions of dims and dtype, no autotuning."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Tiles:
    """How one kernel launch is cut up; blocks are powers of two of at least 16."""

    block: int
    block_d: int
    block_e: int
    split_e: int
    warps: int
    stages: int

    def __str__(self) -> str:
        return f"block={self.block} warps={self.warps} stages={self.stages} split_e={self.split_e}"


def lightning2_tiles(head_dim: int, value_dim: int, dtype: torch.dtype) -> Tiles:
    """Choose the tiles of the one-pass kernel, whose state is [block_e, block_d] in fp32 registers."""
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
