"""The output's warps of the wide kernel: head_dim above 128, 128 columns per program, one copy of the state.

The state alone takes half of the registers of a multiprocessor, in eight warps, and its copy with a ring of
two blocks all of the shared memory. These four warps have 136 registers per thread left for the same work as
`output.write_output`: so they weigh the scores of a block before they multiply with the state, from 12
registers of weights instead of 32. TMA loads the tiles: its loader needs few registers, and its readers need
no fence, which would wait for their stores.
"""

import triton.experimental.gluon.language as gl
from triton.experimental import gluon
from triton.experimental.gluon.language.nvidia.hopper import warpgroup_mma, warpgroup_mma_wait

from .output import SQUARE, row_layout, rows_inside
from .rings import BLOCK
from .state import exp2, load_slope


@gluon.jit
def _scores(ring, block, wanted):  # type: ignore[no-untyped-def]
    """Start Q Kᵀ of a block as soon as it has come in."""
    stage = ring.wait(block, wanted)
    zero = gl.zeros([BLOCK, BLOCK], gl.float32, SQUARE)
    k = ring.k.index(stage).permute((1, 0))
    return warpgroup_mma(ring.q.index(stage), k, zero, use_acc=False, is_async=True)


@gluon.jit
def _causal(p, i, j):  # type: ignore[no-untyped-def]
    """Set p to zero where j > i. With a `where`, ptxas runs all products of the kernel one by one."""
    i, p = gl.broadcast(i, p)
    j, p = gl.broadcast(j, p)
    return gl.inline_asm_elementwise(
        "{.reg .pred causal; setp.ge.s32 causal, $2, $3; selp.f32 $0, $1, 0f00000000, causal;}",
        "=f,f,r,r", [p, i, j], dtype=gl.float32, is_pure=True, pack=1,
    )  # fmt: skip


@gluon.jit
def _causal_either_way(p, i, j, flip):  # type: ignore[no-untyped-def]
    """Set p to zero where j > i, or with `flip` where j < i: there tokens lie in the opposite order.

    i must be less by one with `flip`. Flipped columns would take a register each, for j ^ 63 is no constant
    of an instruction.
    """
    i, p = gl.broadcast(i, p)
    j, p = gl.broadcast(j, p)
    flip, p = gl.broadcast(flip, p)
    return gl.inline_asm_elementwise(
        "{.reg .pred turned, causal; setp.ne.s32 turned, $4, 0; "
        "setp.ge.xor.s32 causal, $2, $3, turned; selp.f32 $0, $1, 0f00000000, causal;}",
        "=f,f,r,r,r", [p, i, j, flip], dtype=gl.float32, is_pure=True, pack=1,
    )  # fmt: skip


@gluon.jit  # type: ignore[untyped-decorator]
def _scored(p, near, rest, i, j, walk, TILES: gl.constexpr):  # type: ignore[no-untyped-def]
    """Return the scores with their weights, and zeros for later tokens."""
    p = p * near * rest
    if TILES.turned:
        return _causal_either_way(p, i, j, i * 0 + walk.flip)
    return _causal(p, i, j)


@gluon.jit  # type: ignore[untyped-decorator]
def write_wide_output(ring, states, rows, decay, walk, bounds, TILES: gl.constexpr):  # type: ignore[no-untyped-def]
    """Compute the rows of blocks 0…last−1 with the weights of `output.write_output`.

    Of the scores that a thread has, in rows r and r + 8 and columns 8t + c and 8t + c + 1, it keeps
    λ^(r+4−8t−c) and the four factors to the weights λ^(i−j), a register each. Where tokens lie in the
    opposite order, both exponents have the opposite sign.
    """
    dtype: gl.constexpr = ring.q.dtype
    COLUMNS: gl.constexpr = TILES.columns
    tall: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, COLUMNS, 16])
    scores: gl.constexpr = gl.DotOperandLayout(0, tall, 2)
    stored: gl.constexpr = row_layout(COLUMNS)
    row = gl.arange(0, BLOCK, gl.SliceLayout(1, stored)) ^ walk.flip
    col = bounds.first_e + gl.arange(0, COLUMNS, gl.SliceLayout(0, stored))
    out_row = row * rows.out_step
    out_block = rows.out_step * BLOCK
    out_ptr = rows.out_ptr

    slope = load_slope(decay.slope_ptr, walk.steps)
    # So that both parts of a weight fit fp32; a neighbour then counts for 2⁻²⁰, which o does not show.
    steep = gl.minimum(slope, 20.0)
    i = gl.arange(0, BLOCK, gl.SliceLayout(1, SQUARE))[:, None]
    j = gl.arange(0, BLOCK, gl.SliceLayout(0, SQUARE))[None, :]
    if TILES.turned:
        steep = gl.where(walk.flip == 0, steep, -steep)
    near = exp2(steep * ((j & -2) - (i & -9) - 4).to(gl.float32))
    rest = exp2(steep * ((j & 1) - (i & 8) + 4).to(gl.float32)) * decay.scale_scores
    if TILES.turned:
        i -= walk.flip & 1
    step = gl.arange(0, BLOCK, gl.SliceLayout(1, tall)) ^ walk.flip
    read = exp2(-slope * (step + decay.offset).to(gl.float32)) * decay.scale_read

    p = _scores(ring, 0, walk.last > 0)
    p = warpgroup_mma_wait(0, deps=[p])  # [i, j]
    scored = gl.convert_layout(_scored(p, near, rest, i, j, walk, TILES).to(dtype), scores)
    for block in range(walk.last):
        stage = block % ring.stages
        zero = gl.zeros([BLOCK, COLUMNS], gl.float32, tall)
        state = states.tiles.index(states.wait(block)).permute((1, 0))
        o = warpgroup_mma(ring.q.index(stage), state, zero, use_acc=False, is_async=True)
        o = warpgroup_mma_wait(0, deps=[o])  # [i, columns]
        states.release(0)
        o = o * read[:, None]
        o = warpgroup_mma(scored, ring.v.index(stage), o, is_async=True)
        inside = rows_inside(row, col, walk.steps - block * BLOCK, bounds)
        o = warpgroup_mma_wait(0, deps=[o])
        ring.release(stage)
        done = gl.convert_layout(o.to(dtype), stored)
        # After the last block: of whatever the ring holds, and not used.
        p = _scores(ring, block + 1, block + 1 < walk.last)
        if TILES.turned:  # with fewer registers for addresses: columns are constants of the instruction
            gl.store(out_ptr + out_row[:, None] + col[None, :], done, mask=inside)
        else:
            gl.store(out_ptr + (out_row[:, None] + col[None, :]), done, mask=inside)
        out_ptr += out_block
        p = warpgroup_mma_wait(0, deps=[p])
        scored = gl.convert_layout(_scored(p, near, rest, i, j, walk, TILES).to(dtype), scores)
