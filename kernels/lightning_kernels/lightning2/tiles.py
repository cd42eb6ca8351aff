"""Tile sizes, warps and stages of the kernels: plain functions of dims and dtype, no autotuning."""

from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from typing import NamedTuple

import torch

from ..common.switches import hopper_is_on

HOPPER_BLOCK = 64
"""Tokens of a block of the Hopper kernel."""
LARGEST_SHARED_BYTES = 232448
"""Shared memory that one program may take on compute capability 9.0; 166912 on 8.0 and 101376 on 8.9."""
REGISTERS = 65536
"""Registers of 32 bits of one multiprocessor."""


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

    They fit `shared_limit` bytes of shared memory per program, at least the 101376 of compute capability 8.9.
    """
    block_d, whole_e = padded(head_dim), padded(value_dim)
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


@cache
def serve_tiles(head_dim: int, value_dim: int, dtype: torch.dtype, shared_limit: int) -> Tiles:
    """Choose the tiles of the kernel that serves, where prompts and decoding tokens share a launch.

    Two programs of four warps fit a multiprocessor, where those of `lightning2_tiles` are alone on it: then
    one loads states while another computes. Each has half of the columns, so that its state takes as many
    registers per thread.
    """
    tiles = lightning2_tiles(head_dim, value_dim, dtype, shared_limit)
    if dtype == torch.float32 or tiles.block_d == 256:
        return tiles
    block_e = min(tiles.block_e, 64)
    stage_bytes = tiles.block * (2 * tiles.block_d + block_e) * dtype.itemsize
    stages = max(2, min(3, shared_limit // 2 // stage_bytes))
    return replace(tiles, block_e=block_e, split_e=-(-value_dim // block_e), warps=4, stages=stages)


def state_grad_tiles(inner: int, outer: int, dtype: torch.dtype) -> Tiles:
    """Choose the tiles of the gradients of tokens by that of a state: sums over `inner`, columns of `outer`.

    A program holds [inner, block_e] of the state's gradient and multiplies [block, inner] of a tensor by it.
    """
    block_d = padded(inner)
    block, block_e = (16, 32) if dtype == torch.float32 else (32 if block_d == 256 else 64, 64)
    return Tiles(block, block_d, block_e, -(-outer // block_e), 4, 2)


def hopper_takes(dtype: torch.dtype, *dims: int) -> bool:
    """Say whether the Hopper kernel may be used for this dtype and these dims.

    `hopper.host.takes` says which tensors it reads without a copy.
    """
    return (
        hopper_is_on()
        and dtype in (torch.float16, torch.bfloat16)
        and all(dim % 16 == 0 for dim in dims)
        and _triton_has_gluon()
    )


@cache
def _triton_has_gluon() -> bool:
    """Say whether triton is 3.6 or later: before, Gluon lacked what the kernel needs.

    Asked of the module: its distribution has other names, too, such as pytorch-triton and triton-windows.
    """
    if find_spec("triton") is None:
        return False
    from triton import __version__

    major, minor = __version__.split(".")[:2]
    return (int(major), int(minor)) >= (3, 6)


class HopperTiles(NamedTuple):
    """How a launch of the Hopper kernel is cut up; a block has 64 tokens.

    The kernel takes it whole, as one constant. Triton's caches of compiled kernels know a constant by its
    text, so whatever the kernel reads of it is a field, not a property, and the text is that of all fields.
    """

    block_d: int
    """Columns of a tile of q and k: head_dim, padded."""
    columns: int
    """Columns of v of one program: 32, 64 or 128."""
    tiles_e: int
    """Programs that share a head, each with its own columns of v."""
    stages: int
    """Blocks in the ring of q, k and v."""
    copies: int
    """Copies of the state in shared memory, for the output's warps to read."""
    output_registers: int
    """Registers of each thread of the output's warps, a multiple of 8."""
    loader_registers: int
    boxes: bool = False
    """Whether TMA loads the tiles, rather than cp.async."""
    wide: bool = False
    """Whether it is the wide kernel, for head_dim 256 with 128 columns: eight warps hold the state."""
    pairs: bool = False
    """Whether the state's warps take two blocks per turn."""
    early: bool = False
    """Whether the state's warps read the next block's v before they write the state (see `state`)."""
    ahead: bool = False
    """Whether sequences are cut into segments, so that there are blocks to walk over before one."""
    group: int = 1
    """How many of these blocks share one decay of the state."""
    turned: bool = False
    """Whether it is backward by TMA, which reads tiles in the order of tokens: roles that walk from the end
    find the tokens of a tile in the opposite order."""

    @property
    def state_warps(self) -> int:
        """Warps that hold the state: `num_warps` of the launch."""
        return 8 if self.wide else 4

    @property
    def launch_registers(self) -> int:
        """Registers of each thread at the launch: those of a multiprocessor shared out evenly, in eights."""
        return REGISTERS // self._threads // 8 * 8

    @property
    def state_registers(self) -> int:
        """Registers of each thread of the state's warps: what output and loader leave of the launch's."""
        others = 128 * (self.output_registers + self.loader_registers)
        left = (self.launch_registers * self._threads - others) // (32 * self.state_warps)
        return min(256, left // 8 * 8)

    @property
    def registers(self) -> int:
        """Registers of all threads of a program, once each role has its own number: at most REGISTERS."""
        others = 128 * (self.output_registers + self.loader_registers)
        return 32 * self.state_warps * self.state_registers + others

    @property
    def _threads(self) -> int:
        return 32 * (self.state_warps + 8)

    def shared_bytes(self) -> int:
        """Return how much shared memory a program takes: what the compiler allocates, to the byte."""
        ring = self.stages * HOPPER_BLOCK * (2 * self.block_d + self.columns) * 2
        states = self.copies * self.columns * self.block_d * 2
        # Where the output's warps exchange rows of o before they store them: 512 bytes per warp. It is also
        # where the warps find their arguments when they start.
        exchange = 4 * 512
        weights = (self.group + 1) * 2 * HOPPER_BLOCK * 2  # high and low halves, and those of the last block
        ready = self.copies // 2 if self.pairs else self.copies
        # Barriers have 8 bytes, and each array of them begins at a multiple of 16.
        barriers = 2 * _to_16(8 * self.stages) + _to_16(8 * ready) + 8 * self.copies
        started = 8  # a byte per warp of output and loader
        return ring + states + exchange + weights + barriers + started

    @property
    def config(self) -> str:
        """The tiles as a CSV and `lightning2_config` name them."""
        text = f"path=hopper block={HOPPER_BLOCK} columns={self.columns} stages={self.stages}"
        return f"{text} split_e={self.tiles_e}" + (" load=tma" if self.boxes else "")


_WIDE_FROM, _BOXES_FROM = 2**23, 2**25
"""How many elements of q are worth the wide kernel, and TMA, whose descriptors take 25 µs of the host."""
_WIDE_BACKWARD_FROM, _WIDE_BACKWARD_PROGRAMS = 2**24, 64
"""Elements of q, and sequences times heads, from which on the wide kernel goes backward, with seven
descriptors: the least that were measured. There its launch takes the host as long as the kernel takes."""


def hopper_tiles(
    head_dim: int,
    value_dim: int,
    backward: bool,
    programs: int,
    processors: int,
    elements: int = 0,
    ahead: bool = False,
) -> HopperTiles:
    """Choose the tiles of the Hopper kernel; the roles of a backward pass share those of the larger dim.

    A forward pass of so few `programs` (sequences times heads) that half of the multiprocessors would be
    idle gives each of them half of the columns: twice as many programs, each of which moves 3 tiles per block
    instead of 4 and takes as much less time. It also loads by TMA, where it is long: `elements` is the size
    of q, or 0 where TMA is not to read the tensors. `ahead` says that sequences are cut into segments.
    """
    few = not backward and 2 * programs <= processors
    if backward:
        wide = programs >= _WIDE_BACKWARD_PROGRAMS and elements >= _WIDE_BACKWARD_FROM
    else:
        wide = 4 * programs > processors and elements >= _WIDE_FROM
    return _hopper_tiles(head_dim, value_dim, backward, few, wide, few and elements >= _BOXES_FROM, ahead)


_HOPPER_SHAPES = {
    (64, 32): (8, 4, 200, 80),
    (64, 64): (7, 4, 200, 80),
    (64, 128): (5, 2, 200, 80),
    (128, 64): (4, 2, 200, 80),
    (128, 128): (4, 1, 200, 64),
    (256, 64): (2, 2, 184, 96),
    (256, 128): (2, 1, 136, 24),
}
"""Stages, copies, and registers of the output and of the loader, by block_d and columns."""
_BOX_LOADER_REGISTERS = 24


@cache
def _hopper_tiles(
    head_dim: int, value_dim: int, backward: bool, few: bool, wide: bool, boxes: bool, ahead: bool
) -> HopperTiles:
    key_dim = max(head_dim, value_dim) if backward else head_dim
    value_dim = max(head_dim, value_dim) if backward else value_dim
    block_d = max(64, padded(key_dim))
    # It is worth while backward where it halves the number of programs: tiles of 64 columns are 4 above 192.
    wide = wide and block_d == 256 and value_dim > (192 if backward else 64)
    # The state takes block_d · columns / 128 registers per thread, and half of that in eight warps.
    columns = 64 if value_dim <= 64 or (block_d > 128 and not wide) else 128
    if few and block_d <= columns:
        columns //= 2
    stages, copies, output, loader = _HOPPER_SHAPES[block_d, columns]
    boxes = boxes or wide
    return HopperTiles(
        block_d,
        columns,
        -(-value_dim // columns),
        stages,
        copies,
        output,
        _BOX_LOADER_REGISTERS if boxes else loader,
        boxes=boxes,
        wide=wide,
        pairs=copies == 4,
        early=(block_d, columns) == (128, 128),
        ahead=ahead,
        # At head_dim 128 there is no shared memory left for the weights of more.
        group=1 if not ahead else 2 if block_d == 128 else 4,
        turned=wide and backward,
    )


CATCH_UP = 64
"""Once in so many blocks the state decays by what rounding has left of the decay of all of them."""
STEEPEST = 1e30
"""The slope that counts for all above, also for inf: λ is 0 just as well, but λ⁰ is 1 and not NaN."""


@cache
def processors(device: int) -> int:
    """Return how many multiprocessors a CUDA device has; -1 stands for an H200."""
    return 132 if device < 0 else int(torch.cuda.get_device_properties(device).multi_processor_count)


def lightning1_tiles(head_dim: int, value_dim: int, dtype: torch.dtype) -> Tiles:
    """Choose the tiles of the quadratic kernel, whose sum is [block, block_e] in fp32 registers."""
    block_d, whole_e = padded(head_dim), padded(value_dim)
    if dtype == torch.float32:
        block, block_e, warps, stages = 32, min(whole_e, 64), 8, 1
    else:
        block, block_e = 64, min(whole_e, 128)
        warps, stages = 4, (2 if block_d == 256 else 3)
    return Tiles(block, block_d, block_e, -(-value_dim // block_e), warps, stages)


def padded(dim: int) -> int:
    """Return the side of a tile for a dim: a power of two of at least 16."""
    return max(16, 1 << (dim - 1).bit_length())


def _to_16(size: int) -> int:
    return -(-size // 16) * 16
