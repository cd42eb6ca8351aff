"""How a launch of the Hopper kernel is cut up into programs, by sizes alone.

Slopes and the lengths of packed sequences are on the device, which the host would have to wait for.
"""

import math
from functools import lru_cache
from typing import NamedTuple

from ..common.switches import invariant
from .tiles import HOPPER_BLOCK, HopperTiles, hopper_tiles

WINDOW = 20.8
"""A token that is T tokens old counts for λ^T = e^(−sT). From T = WINDOW/s on that is less than 2⁻³⁰
(30·ln 2 = 20.79), and a segment leaves it out: it walks over the last ⌈WINDOW/s⌉ tokens before it."""
_LEAST_SLOPE = 2.0**-8
"""The least of the usual slopes 2^(−8(i+1)/h), i < h, of any number h of heads."""
WINDOW_BLOCKS = math.ceil(WINDOW / _LEAST_SLOPE / HOPPER_BLOCK)
"""Blocks of that window at the least slope, 84. `hopper_segments` assumes as many before each segment: the
slopes are on the device, which it would have to wait for. The kernel walks over what the slope needs."""
SEGMENT_ALIGNED = 4
"""A segment computes rows from a multiple of this many blocks on; a multiple of each `group`."""
EXCHANGE = 8
"""What leaving and adding up states costs a program, in blocks."""
_PACKED_FROM = 64
"""Blocks of all packed sequences together from which on they are cut."""


class Cut(NamedTuple):
    """How a launch of the Hopper kernel is cut up into programs."""

    tiles: HopperTiles
    walks: int
    """Programs that the launch would have if no sequence were cut; with packed sequences, those of one."""
    segments: int
    """Programs per walk: segments of a sequence, or places for those of all packed sequences."""
    chunk: int
    """Blocks of a segment of a head that hardly decays; 0 where nothing is cut."""
    whole: int
    """Packed sequences of at most so many blocks are not cut,"""
    most: int
    """and where a head hardly decays, of at most so many."""

    @property
    def workspace_bytes(self) -> int:
        """Memory by which segments exchange states, which is allocated for the launch."""
        state = 4 * self.tiles.columns * self.tiles.block_d
        return self.walks * self.segments * (state + 4) if self.chunk else 0


def hopper_launch(
    head_dim: int,
    value_dim: int,
    backward: bool,
    programs: int,
    seq_len: int,
    processors: int,
    elements: int,
    packed: int = 0,
) -> Cut:
    """Choose how a launch of the Hopper kernel is cut up.

    `programs` are sequences times heads, `seq_len` the tokens of a sequence, and `elements` as for
    `hopper_tiles`. `packed` sequences, if any, have that length on average, rounded up; they are not cut
    where the workspace would be larger than two times q, as with many short ones. Where results are to be
    `invariant`, nothing depends on all this: one segment, of the tiles for many heads.
    """
    roles = 3 if backward else 1
    if invariant():
        tiles = hopper_tiles(head_dim, value_dim, backward, programs=processors, processors=processors)
        return _uncut(tiles, programs * tiles.tiles_e * roles)
    tiles = hopper_tiles(head_dim, value_dim, backward, programs, processors, elements)
    walks = programs * tiles.tiles_e * roles
    uncut = _uncut(tiles, walks)
    whole = most = 0
    if packed:
        walks //= packed
        segments, chunk, whole, most = packed_segments(walks, packed, packed * seq_len, processors)
    else:
        segments = hopper_segments(walks, seq_len, processors, tiles.wide)
        chunk = -(-_blocks(seq_len) // segments) if segments > 1 else 0
    if not chunk:
        return uncut
    tiles = hopper_tiles(head_dim, value_dim, backward, programs, processors, elements, ahead=True)
    cut = Cut(tiles, walks, segments, -(-chunk // tiles.group) * tiles.group, whole, most)
    q_bytes = 2 * programs * seq_len * head_dim
    return uncut if packed and cut.workspace_bytes > 2 * q_bytes else cut


def _uncut(tiles: HopperTiles, walks: int) -> Cut:
    """Return a launch in which each walk is one program."""
    return Cut(tiles, walks, 1, 0, 0, 0)


def pooled_launch(head_dim: int, value_dim: int, programs: int, processors: int) -> Cut:
    """Return the launch of packed sequences with states in a pool, in which nothing is cut.

    A state is read and written in place, which the program that reads it does best itself.
    """
    tiles = hopper_tiles(head_dim, value_dim, False, programs, processors)
    return _uncut(tiles, programs * tiles.tiles_e)


@lru_cache(maxsize=4096)  # there are as many lengths as users have
def hopper_segments(programs: int, seq_len: int, processors: int, wide: bool) -> int:
    """Choose into how many segments a sequence is cut, so that `programs` times as many fill the device.

    The programs of a processor run one after another. Where a head decays, each but the first of a sequence
    walks over up to WINDOW_BLOCKS blocks before it, at half the price: it reads half as much. Where it hardly
    decays, each walks over its own blocks at that price and exchanges states with the others (`exchange`).
    The wide kernel, for which there are enough programs, has no registers for that.
    """
    if wide:
        return 1
    blocks = _blocks(seq_len)
    ahead = min(WINDOW_BLOCKS, blocks) / 2

    def rounds(segments: int) -> float:
        if segments == 1:
            return -(-programs // processors) * blocks
        decaying = (blocks + (segments - 1) * ahead) / segments
        lasting = 1.5 * blocks / segments + EXCHANGE
        return -(-programs * segments // processors) * min(decaying, lasting)

    return min(range(1, max(1, min(64, blocks // 4)) + 1), key=rounds)


@lru_cache(maxsize=4096)
def packed_segments(walks: int, sequences: int, tokens: int, processors: int) -> tuple[int, int, int, int]:
    """Choose how packed sequences of unknown lengths are cut: segments of a walk, `chunk`, `whole`, `most`.

    The segments, of `chunk` blocks, are so short that every processor gets two or more where one long
    sequence has most of the tokens. Sequences of up to `whole` blocks, which would not keep a processor busy
    for longer than all tokens keep all processors, are not cut if they all run at once. Where states are
    exchanged, each block is read twice: up to `most` blocks it takes less time not to cut.

    The segments have places: first those of the first segments of all sequences, then, from
    t // (64 chunk) on, those of the others of a sequence that begins at token t. Some stay empty: as many as
    that are always enough.
    """
    blocks = _blocks(tokens)
    share = -(-blocks * walks // processors)
    if blocks < _PACKED_FROM or 3 * blocks <= 4 * share:  # all tokens in one sequence would not take longer
        return 1, 0, 0, 0
    chunk = max(8, _aligned(share // 2))
    whole = share + share // 20 if walks * sequences <= processors else chunk
    return sequences + tokens // (HOPPER_BLOCK * chunk), chunk, whole, share + 5 * share // 8


def _blocks(tokens: int) -> int:
    return -(-tokens // HOPPER_BLOCK)


def _aligned(blocks: int) -> int:
    return -(-blocks // SEGMENT_ALIGNED) * SEGMENT_ALIGNED
