"""The loader: four warps that only copy tiles of q, k and v into a ring in shared memory.

A stage of the ring holds one block of BLOCK tokens in the order of visits: q and k [BLOCK, BLOCK_D], and v
[BLOCK, COLUMNS]. cp.async takes any strides and ragged ends and arrives at the stage's mbarrier by itself. It
occupies the registers of its address until it is issued, so the loader needs registers for several. TMA needs
hardly any and is faster where few multiprocessors read, but costs about 25 µs per call for descriptors.
"""

import triton.experimental.gluon.language as gl
from triton.experimental import gluon
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma

from .rings import BLOCK

LOADER_WARPS = gl.constexpr(4)


@gluon.jit  # type: ignore[untyped-decorator]
def _copy_tile(  # type: ignore[no-untyped-def]
    smem, ptr, inside, offset, col, dim, FULL: gl.constexpr, FEW: gl.constexpr
):
    """Start the copy of one tile; rows and columns that are outside become zeros.

    FEW: with fewer registers, and more instructions, for the addresses.
    """
    mask = inside[:, None]
    if not FULL:
        mask = mask & (col[None, :] < dim)
    if FEW:
        rows = ptr + offset[:, None]
        async_copy.async_copy_global_to_shared(smem, rows + col[None, :], mask=mask)
    else:
        async_copy.async_copy_global_to_shared(smem, ptr + (offset[:, None] + col[None, :]), mask=mask)


@gluon.jit  # type: ignore[untyped-decorator]
def load(ring, boxes, rows, walk, bounds, TILES: gl.constexpr):  # type: ignore[no-untyped-def]
    """Copy blocks first…last−1 into the ring, those before `main` without q."""
    q, k, v, g, head, kv_head = boxes.q, boxes.k, boxes.v, boxes.g, boxes.head, boxes.kv_head
    sequence = boxes.sequence
    if TILES.turned:
        if boxes.role == 0:
            _load_boxes(ring, v, g, boxes.part_q, kv_head, head, head, sequence, walk, bounds, TILES)
        elif boxes.role == 1:
            _load_boxes(ring, k, q, boxes.part_g, kv_head, head, head, sequence, walk, bounds, TILES)
        else:
            _load_boxes(ring, g, v, boxes.part_k, head, kv_head, kv_head, sequence, walk, bounds, TILES)
    elif TILES.boxes:
        _load_boxes(ring, q, k, v, head, kv_head, kv_head, sequence, walk, bounds, TILES)
    else:
        _load_rows(ring, rows, walk, bounds, TILES)


@gluon.jit  # type: ignore[untyped-decorator]
def _load_rows(ring, rows, walk, bounds, TILES: gl.constexpr):  # type: ignore[no-untyped-def]
    """Do what `load` says by cp.async."""
    BLOCK_D: gl.constexpr = TILES.block_d
    COLUMNS: gl.constexpr = TILES.columns
    FEW: gl.constexpr = TILES.ahead
    # A warp covers 4 rows by 128 bytes: few rows per thread, so that few addresses stay in registers.
    threads: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [LOADER_WARPS, 1], [1, 0])
    row = gl.arange(0, BLOCK, gl.SliceLayout(1, threads))
    col = gl.arange(0, BLOCK_D, gl.SliceLayout(0, threads))
    narrow: gl.constexpr = gl.BlockedLayout([1, 8], [8, 4], [LOADER_WARPS, 1], [1, 0])
    threads_v: gl.constexpr = narrow if COLUMNS < 64 else threads
    col_v = gl.arange(0, COLUMNS, gl.SliceLayout(0, threads_v))
    row_v = gl.arange(0, BLOCK, gl.SliceLayout(1, threads_v))
    q_row = row * rows.q_step
    k_row = row * rows.k_step
    v_row = row_v * rows.v_step
    q_block = rows.q_step * BLOCK
    k_block = rows.k_step * BLOCK
    v_block = rows.v_step * BLOCK
    begin = (walk.first + walk.later).to(gl.int64)
    q_ptr = rows.q_ptr + begin * q_block
    k_ptr = rows.k_ptr + begin * k_block
    v_ptr = rows.v_ptr + (begin * v_block + bounds.first_e)
    left = walk.steps - (walk.first + walk.later) * BLOCK
    for turn in range(walk.last - walk.first):
        if TILES.ahead:  # noqa: SIM102 (one condition is for the compiler, the other for the device)
            if turn == walk.main - walk.first:  # back, where the segment's own blocks were walked over
                q_ptr += -walk.later.to(gl.int64) * q_block
                k_ptr += -walk.later.to(gl.int64) * k_block
                v_ptr += -walk.later.to(gl.int64) * v_block
                left += walk.later * BLOCK
        inside = row < left
        stage = ring.acquire(turn)
        if turn >= walk.main - walk.first:
            _copy_tile(ring.q.index(stage), q_ptr, inside, q_row, col, bounds.key_dim, bounds.full_d, FEW)
        _copy_tile(ring.k.index(stage), k_ptr, inside, k_row, col, bounds.key_dim, bounds.full_d, FEW)
        _copy_tile(
            ring.v.index(stage), v_ptr, row_v < left, v_row, col_v,
            bounds.value_dim - bounds.first_e, bounds.full_e, FEW,
        )  # fmt: skip
        ring.publish(stage)
        q_ptr += q_block
        k_ptr += k_block
        v_ptr += v_block
        left -= BLOCK


@gluon.jit  # type: ignore[untyped-decorator]
def _load_boxes(  # type: ignore[no-untyped-def]
    ring, q_box, k_box, v_box, q_head, k_head, v_head, sequence, walk, bounds, TILES: gl.constexpr
):
    """Do what `load` says by TMA, which reads zeros outside of a tensor."""
    BLOCK_D: gl.constexpr = TILES.block_d
    COLUMNS: gl.constexpr = TILES.columns
    wide: gl.constexpr = 2 * BLOCK * BLOCK_D  # bytes
    slim: gl.constexpr = 2 * BLOCK * COLUMNS
    for turn in range(walk.last - walk.first):
        computed = turn >= walk.main - walk.first
        row = (walk.first + turn + gl.where(computed, 0, walk.later)) * BLOCK
        if TILES.turned:  # the last tile of a walk from the end may begin before the first token
            row = gl.where(walk.flip == 0, row, walk.steps - row - BLOCK)
        stage = ring.acquire(turn)
        arrival = ring.full.index(stage)
        mbarrier.expect(arrival, 2 * wide + slim, pred=computed)
        mbarrier.expect(arrival, wide + slim, pred=turn < walk.main - walk.first)
        q = ring.q.index(stage).reshape([1, 1, BLOCK, BLOCK_D])
        k = ring.k.index(stage).reshape([1, 1, BLOCK, BLOCK_D])
        v = ring.v.index(stage).reshape([1, 1, BLOCK, COLUMNS])
        tma.async_copy_global_to_shared(v_box, [sequence, v_head, row, bounds.first_e], arrival, v)
        tma.async_copy_global_to_shared(k_box, [sequence, k_head, row, 0], arrival, k)
        tma.async_copy_global_to_shared(q_box, [sequence, q_head, row, 0], arrival, q, pred=computed)
