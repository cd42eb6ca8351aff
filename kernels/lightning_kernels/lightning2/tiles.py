"""Tile sizes, warps and stages of the kernels: plain functions of dims and dtype, no autotuning."""

import os
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version

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


def hopper_takes(dtype: torch.dtype, *dims: int) -> bool:
    """Say whether the Hopper kernel takes this dtype and these dims, where strides are as for its `takes`.

    LIGHTNING_KERNELS_HOPPER=0 in the environment turns the kernel off.
    """
    return (
        os.environ.get("LIGHTNING_KERNELS_HOPPER") != "0"
        and dtype in (torch.float16, torch.bfloat16)
        and all(dim % 16 == 0 for dim in dims)
        and _triton_has_gluon()
    )


@cache
def _triton_has_gluon() -> bool:
    """Say whether triton is 3.6 or later; Gluon lacked what the kernel needs before."""
    major, minor = version("triton").split(".")[:2]
    return (int(major), int(minor)) >= (3, 6)


@dataclass(frozen=True, slots=True)
class HopperTiles:
    """How a launch of the Hopper kernel is cut up; a block has 64 tokens."""

    block_d: int
    columns: int
    """Columns of v of one program: 32, 64 or 128."""
    tiles_e: int
    stages: int
    copies: int
    """Of the state in shared memory, for the output's warps to read; with 4, blocks go in pairs."""
    output_registers: int
    loader_registers: int
    state_warps: int = 4
    """Warps that hold the state: 8 in the wide kernel, which takes head_dim 256 with 128 columns."""
    boxes: bool = False
    """Whether TMA brings the tiles, rather than cp.async."""

    @property
    def wide(self) -> bool:
        """Whether it is the wide kernel."""
        return self.state_warps == 8

    def __str__(self) -> str:
        text = f"path=hopper block=64 columns={self.columns} stages={self.stages} split_e={self.tiles_e}"
        return text + " load=tma" if self.boxes else text


_WIDE_FROM, _BOXES_FROM = 2**23, 2**25
"""How many elements of q are worth the wide kernel, and TMA, whose descriptors take 25 µs of the host."""


def hopper_tiles(
    head_dim: int, value_dim: int, backward: bool, programs: int, processors: int, elements: int = 0
) -> HopperTiles:
    """Choose the tiles of the Hopper kernel; the roles of a backward pass share those of the larger dim.

    A forward pass of so few `programs` (sequences times heads) that half of the multiprocessors would stand
    idle gives each of them half of the columns: twice as many programs, each of which moves 3 tiles a block
    instead of 4 and takes as much less time. It also loads by TMA, where it is long: `elements` is the size
    of q, or 0 where TMA cannot read the tensors.
    """
    few = not backward and 2 * programs <= processors
    wide = not backward and 4 * programs > processors and elements >= _WIDE_FROM
    return _hopper_tiles(head_dim, value_dim, backward, few, wide, few and elements >= _BOXES_FROM)


def hopper_launch(
    head_dim: int, value_dim: int, backward: bool, programs: int, seq_len: int, processors: int, elements: int
) -> tuple[HopperTiles, int, int]:
    """Choose how a launch of the Hopper kernel is cut up: tiles, programs a segment, and segments.

    `programs` are sequences times heads, `elements` as for `hopper_tiles`.
    """
    tiles = hopper_tiles(head_dim, value_dim, backward, programs, processors, elements)
    walks = programs * tiles.tiles_e * (3 if backward else 1)
    return tiles, walks, hopper_segments(walks, seq_len, processors, tiles.wide)


@cache
def _hopper_tiles(
    head_dim: int, value_dim: int, backward: bool, few: bool, wide: bool, boxes: bool
) -> HopperTiles:
    key_dim = max(head_dim, value_dim) if backward else head_dim
    value_dim = max(head_dim, value_dim) if backward else value_dim
    block_d = max(64, _padded(key_dim))
    if wide and block_d == 256 and value_dim > 64:
        return HopperTiles(256, 128, -(-value_dim // 128), 2, 1, 136, 24, state_warps=8, boxes=True)
    # The state takes block_d · columns / 128 registers a thread.
    columns = 64 if value_dim <= 64 or block_d > 128 else 128
    if few and block_d <= columns:
        columns //= 2
    stages, copies, output, loader = {
        (64, 32): (8, 4, 200, 80),
        (64, 64): (7, 4, 200, 80),
        (64, 128): (5, 2, 200, 80),
        (128, 64): (4, 2, 200, 80),
        (128, 128): (4, 1, 200, 64),
        (256, 64): (2, 2, 184, 96),
    }[block_d, columns]
    loader = 24 if boxes else loader
    return HopperTiles(
        block_d, columns, -(-value_dim // columns), stages, copies, output, loader, boxes=boxes
    )


@cache
def hopper_segments(programs: int, seq_len: int, processors: int, wide: bool) -> int:
    """Choose into how many segments a sequence is cut, so that `programs` times as many fill the device.

    The programs of a processor run one after another, and each but the first of a sequence walks over up to
    84 blocks of 64 tokens before it, at half the price: what the least slope of 8 or more heads needs. The
    wide kernel, for which there are enough programs, has no registers for that.
    """
    if wide:
        return 1
    blocks = -(-seq_len // 64)
    ahead = min(84, blocks) / 2

    def rounds(segments: int) -> float:
        return -(-programs * segments // processors) * (blocks + (segments - 1) * ahead) / segments

    return min(range(1, max(1, min(64, blocks // 4)) + 1), key=rounds)


@cache
def processors(device: int) -> int:
    """Return how many multiprocessors a CUDA device has; -1 stands for an H200."""
    return 132 if device < 0 else int(torch.cuda.get_device_properties(device).multi_processor_count)


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
