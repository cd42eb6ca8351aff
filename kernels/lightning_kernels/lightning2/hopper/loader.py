"""The loader: four warps that do nothing but bring tiles of q, k and v into a ring in shared memory.

A stage of the ring holds one block of BLOCK tokens in the order of visits: q and k [BLOCK, BLOCK_D], and v
[BLOCK, COLUMNS]. cp.async takes any strides and ragged ends and counts itself at the stage's mbarrier. It
holds on to its address until it is taken, so the loader needs registers for several. TMA needs next to none
and is faster where few multiprocessors read, for some 25 µs of descriptors a call.
"""

import triton.experimental.gluon.language as gl
from triton.experimental import gluon
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma

BLOCK = gl.constexpr(64)
LOADER_WARPS = gl.constexpr(4)


@gluon.jit  # type: ignore[untyped-decorator]
def _copy_tile(smem, ptr, inside, offset, col, dim, FULL: gl.constexpr):  # type: ignore[no-untyped-def]
    """Start the copy of one tile; rows and columns that are outside become zeros."""
    mask = inside[:, None]
    if not FULL:
        mask = mask & (col[None, :] < dim)
    async_copy.async_copy_global_to_shared(smem, ptr + (offset[:, None] + col[None, :]), mask=mask)


@gluon.jit  # type: ignore[untyped-decorator]
def load(  # type: ignore[no-untyped-def]
    q_s, k_s, v_s, full, empty, q_ptr, k_ptr, v_ptr, q_step, k_step, v_step,
    first, main, last, steps, key_dim, value_dim, first_e,
    BLOCK_D: gl.constexpr, COLUMNS: gl.constexpr, STAGES: gl.constexpr, FULL_D: gl.constexpr,
    FULL_E: gl.constexpr,
):  # fmt: skip
    """Copy blocks first…last−1 into the ring by cp.async, those before `main` without q.

    A pointer is that of the token which is visited first, a step how far it is to the next one.
    """
    # A warp covers 4 rows by 128 bytes: few rows a thread, so that few addresses stay in registers.
    threads: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [LOADER_WARPS, 1], [1, 0])
    row = gl.arange(0, BLOCK, gl.SliceLayout(1, threads))
    col = gl.arange(0, BLOCK_D, gl.SliceLayout(0, threads))
    narrow: gl.constexpr = gl.BlockedLayout([1, 8], [8, 4], [LOADER_WARPS, 1], [1, 0])
    threads_v: gl.constexpr = narrow if COLUMNS < 64 else threads
    col_v = gl.arange(0, COLUMNS, gl.SliceLayout(0, threads_v))
    row_v = gl.arange(0, BLOCK, gl.SliceLayout(1, threads_v))
    q_row = row * q_step
    k_row = row * k_step
    v_row = row_v * v_step
    q_block = q_step * BLOCK
    k_block = k_step * BLOCK
    v_block = v_step * BLOCK
    q_ptr += first.to(gl.int64) * q_block
    k_ptr += first.to(gl.int64) * k_block
    v_ptr += first.to(gl.int64) * v_block + first_e
    left = steps - first * BLOCK
    for turn in range(last - first):
        stage = turn % STAGES
        inside = row < left
        mbarrier.wait(empty.index(stage), ((turn // STAGES) & 1) ^ 1)
        if turn >= main - first:
            _copy_tile(q_s.index(stage), q_ptr, inside, q_row, col, key_dim, FULL_D)
        _copy_tile(k_s.index(stage), k_ptr, inside, k_row, col, key_dim, FULL_D)
        _copy_tile(v_s.index(stage), v_ptr, row_v < left, v_row, col_v, value_dim - first_e, FULL_E)
        async_copy.mbarrier_arrive(full.index(stage), increment_count=False)
        q_ptr += q_block
        k_ptr += k_block
        v_ptr += v_block
        left -= BLOCK


@gluon.jit  # type: ignore[untyped-decorator]
def load_boxes(  # type: ignore[no-untyped-def]
    q_s, k_s, v_s, full, empty, q_box, k_box, v_box, sequence, head, kv_head, first, main, last, first_e,
    BLOCK_D: gl.constexpr, COLUMNS: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """Copy blocks first…last−1 into the ring by TMA, those before `main` without q.

    A box is the descriptor of tiles [1, 1, BLOCK, ·] of a tensor [b, h, n, ·]; what is outside becomes zeros.
    """
    wide: gl.constexpr = 2 * BLOCK * BLOCK_D  # bytes
    slim: gl.constexpr = 2 * BLOCK * COLUMNS
    for turn in range(last - first):
        stage = turn % STAGES
        arrival = full.index(stage)
        row = (first + turn) * BLOCK
        computed = turn >= main - first
        mbarrier.wait(empty.index(stage), ((turn // STAGES) & 1) ^ 1)
        mbarrier.expect(arrival, 2 * wide + slim, pred=computed)
        mbarrier.expect(arrival, wide + slim, pred=turn < main - first)
        q = q_s.index(stage).reshape([1, 1, BLOCK, BLOCK_D])
        k = k_s.index(stage).reshape([1, 1, BLOCK, BLOCK_D])
        v = v_s.index(stage).reshape([1, 1, BLOCK, COLUMNS])
        tma.async_copy_global_to_shared(v_box, [sequence, kv_head, row, first_e], arrival, v)
        tma.async_copy_global_to_shared(k_box, [sequence, kv_head, row, 0], arrival, k)
        tma.async_copy_global_to_shared(q_box, [sequence, head, row, 0], arrival, q, pred=computed)
