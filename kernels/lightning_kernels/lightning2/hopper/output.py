"""The output's warps: rows of o from a block of q, k and v and the state before it.

    O = Λ Q·KV + [(Q Kᵀ) ∘ M] V

No block needs the rows of another, so these warps follow the state's as far behind as the rings allow. The
weighted scores are a first operand and stay in registers.
"""

import triton.experimental.gluon.language as gl
from triton.experimental import gluon
from triton.experimental.gluon.language.nvidia.hopper import warpgroup_mma, warpgroup_mma_wait

from .rings import BLOCK
from .state import exp2, load_slope

SQUARE = gl.constexpr(gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 64, 16]))
"""The layout of Q Kᵀ [BLOCK, BLOCK] as the products leave it."""


@gluon.constexpr_function  # type: ignore[untyped-decorator]
def row_layout(columns: int) -> gl.DistributedLinearLayout:
    """Return the layout [BLOCK, columns] in which o is stored.

    It is that of the products after an exchange among the four threads of a row: each stores 16 bytes.
    """
    registers = [[0, 1], [0, 2], [0, 4], [0, 32], [8, 0], [0, 64]]
    return gl.DistributedLinearLayout(
        reg_bases=[base for base in registers if base[1] < columns],
        lane_bases=[[0, 8], [0, 16], [1, 0], [2, 0], [4, 0]],
        warp_bases=[[16, 0], [32, 0]],
        block_bases=[],
        shape=[64, columns],
    )


@gluon.jit
def rows_inside(row, col, left, bounds):  # type: ignore[no-untyped-def]
    """Return which elements of a block of o are stored; `left` tokens remain from its first on."""
    inside = (row < left)[:, None]
    if not bounds.full_e:
        inside = inside & (col[None, :] < bounds.value_dim)
    return inside


@gluon.jit  # type: ignore[untyped-decorator]
def clear_rows(out_ptr, out_step, rows, share, shares, bounds, TILES: gl.constexpr):  # type: ignore[no-untyped-def]
    """Store zeros in `rows` rows from `out_ptr` on: in every `shares`-th block of them, from `share` on."""
    COLUMNS: gl.constexpr = TILES.columns
    threads: gl.constexpr = gl.BlockedLayout([1, 8], [8, 4], [gl.num_warps(), 1], [1, 0])
    row = gl.arange(0, BLOCK, gl.SliceLayout(1, threads))
    col = bounds.first_e + gl.arange(0, COLUMNS, gl.SliceLayout(0, threads))
    zero = gl.zeros([BLOCK, COLUMNS], out_ptr.dtype.element_ty, threads)
    for block in range(share, gl.cdiv(rows, BLOCK), shares):
        inside = rows_inside(row, col, rows - block * BLOCK, bounds)
        at = out_ptr + out_step.to(gl.int64) * BLOCK * block
        gl.store(at + ((row * out_step)[:, None] + col[None, :]), zero, mask=inside)


@gluon.jit  # type: ignore[untyped-decorator]
def _first_products(ring, states, turn, copy, wanted, TILES: gl.constexpr):  # type: ignore[no-untyped-def]
    """Start Q Kᵀ and Q·KV of block `turn` of the walk when the state before it, number `copy`, is ready.

    The state's warps have seen the block come in and fenced it; a fence here would wait for stores of o.
    """
    COLUMNS: gl.constexpr = TILES.columns
    tall: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, COLUMNS, 16])
    state = states.tiles.index(states.wait(copy, wanted))
    q = ring.q.index(turn % ring.stages)
    k = ring.k.index(turn % ring.stages)
    zero = gl.zeros([BLOCK, BLOCK], gl.float32, SQUARE)
    p = warpgroup_mma(q, k.permute((1, 0)), zero, use_acc=False, is_async=True)
    zero = gl.zeros([BLOCK, COLUMNS], gl.float32, tall)
    if COLUMNS >= 64:
        state = state.permute((1, 0))
    o = warpgroup_mma(q, state, zero, use_acc=False, is_async=True)
    return p, o


@gluon.jit  # type: ignore[untyped-decorator]
def write_output(ring, states, rows, decay, walk, bounds, TILES: gl.constexpr):  # type: ignore[no-untyped-def]
    """Compute the rows of blocks main…last−1.

    A token of step i reads the state with weight scale_read·λ^(i+offset), and that of
    step j ≤ i in its own block with M = scale_scores·λ^(i−j), which takes 32 registers per thread.
    """
    dtype: gl.constexpr = ring.q.dtype
    first, main, last = walk.first, walk.main, walk.last
    COLUMNS: gl.constexpr = TILES.columns
    tall: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, COLUMNS, 16])
    scores: gl.constexpr = gl.DotOperandLayout(0, tall, 2)
    stored: gl.constexpr = row_layout(COLUMNS)
    row = gl.arange(0, BLOCK, gl.SliceLayout(1, stored))
    col = bounds.first_e + gl.arange(0, COLUMNS, gl.SliceLayout(0, stored))
    out_row = row * rows.out_step
    out_block = rows.out_step * BLOCK
    out_ptr = rows.out_ptr + main.to(gl.int64) * out_block

    slope = load_slope(decay.slope_ptr, walk.steps)
    i = gl.arange(0, BLOCK, gl.SliceLayout(1, SQUARE))
    j = gl.arange(0, BLOCK, gl.SliceLayout(0, SQUARE))
    weight = exp2(gl.minimum(slope * (j[None, :] - i[:, None]).to(gl.float32), 0.0)) * decay.scale_scores
    weight = gl.where(j[None, :] <= i[:, None], weight, 0.0)
    i = gl.arange(0, BLOCK, gl.SliceLayout(1, tall))
    read = exp2(-slope * (i + decay.offset).to(gl.float32)) * decay.scale_read

    FIRST_COPY: gl.constexpr = 1 if TILES.pairs else 0
    copy = main * 0 + FIRST_COPY
    if TILES.pairs:
        states.release(0)  # where no copy is
    p, o = _first_products(ring, states, main - first, copy, main < last, TILES)
    p = warpgroup_mma_wait(1, deps=[p])  # [i, j]
    scored = gl.convert_layout((p * weight).to(dtype), scores)
    o = warpgroup_mma_wait(0, deps=[o]) * read[:, None]  # [i, columns]
    if not TILES.pairs or main < last:
        states.release(FIRST_COPY)
    for block in range(main, last):
        stage = (block - first) % ring.stages
        o = warpgroup_mma(scored, ring.v.index(stage), o, is_async=True)
        inside = rows_inside(row, col, walk.steps - block * BLOCK, bounds)
        o = warpgroup_mma_wait(0, deps=[o])
        ring.release(stage)
        done = gl.convert_layout(o.to(dtype), stored)
        # A store waits long to be accepted: the next block's products are under way by then. After the last
        # block they are of whatever the ring holds, and not used.
        later = block + 1
        copy += 1
        p, o = _first_products(ring, states, later - first, copy, later < last, TILES)
        gl.store(out_ptr + (out_row[:, None] + col[None, :]), done, mask=inside)
        out_ptr += out_block
        p = warpgroup_mma_wait(1, deps=[p])
        scored = gl.convert_layout((p * weight).to(dtype), scores)
        o = warpgroup_mma_wait(0, deps=[o]) * read[:, None]
        # A copy that was never written must not be released: the state's warps may yet wait for its barrier.
        if not TILES.pairs or later < last:
            states.release(copy % states.copies)
