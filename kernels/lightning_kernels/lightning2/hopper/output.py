"""The output's warps: rows of o from a block of q, k and v and the state before it.

    O = Λ Q·KV + [(Q Kᵀ) ∘ M] V

No block needs another one's rows, so these warps run behind the state's as far as the rings allow. Weighted
scores are a first operand and stay in registers.
"""

import triton.experimental.gluon.language as gl
from triton.experimental import gluon
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import (
    mbarrier,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from lightning_kernels.lightning2.hopper.loader import BLOCK
from lightning_kernels.lightning2.hopper.state import exp2, load_slope

SQUARE = gl.constexpr(gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 64, 16]))
"""The layout of Q Kᵀ [BLOCK, BLOCK] as the products leave it."""


@gluon.constexpr_function  # type: ignore[untyped-decorator]
def row_layout(columns: int) -> gl.DistributedLinearLayout:
    """Return the layout [BLOCK, columns] in which o is stored: as the products leave it, but for an exchange
    among the four threads of a row, so that each stores 16 bytes.
    """
    registers = [[0, 1], [0, 2], [0, 4], [0, 32], [8, 0], [0, 64]]
    return gl.DistributedLinearLayout(
        reg_bases=[base for base in registers if base[1] < columns],
        lane_bases=[[0, 8], [0, 16], [1, 0], [2, 0], [4, 0]],
        warp_bases=[[16, 0], [32, 0]],
        block_bases=[],
        shape=[64, columns],
    )


@gluon.jit  # type: ignore[untyped-decorator]
def rows_inside(row, col, left, value_dim, FULL_E: gl.constexpr):  # type: ignore[no-untyped-def]
    """Return which elements of a block of o are stored; `left` tokens are left from its first on."""
    inside = (row < left)[:, None]
    if not FULL_E:
        inside = inside & (col[None, :] < value_dim)
    return inside


@gluon.jit  # type: ignore[untyped-decorator]
def _first_products(  # type: ignore[no-untyped-def]
    q_s, k_s, state_s, ready, turn, place, wanted,
    COLUMNS: gl.constexpr, STAGES: gl.constexpr, COPIES: gl.constexpr, PAIR: gl.constexpr,
):  # fmt: skip
    """Start Q Kᵀ and Q·KV of a block when the state before it is ready: its copy lies in `place` of the ring.

    The state's warps have seen the block come in and fenced it; a fence here would wait for stores of o.
    """
    tall: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, COLUMNS, 16])
    mbarrier.wait(ready.index(place % COPIES // (1 + PAIR)), (place // COPIES) & 1, pred=wanted)
    q = q_s.index(turn % STAGES)
    k = k_s.index(turn % STAGES)
    state = state_s.index(place % COPIES)
    zero = gl.zeros([BLOCK, BLOCK], gl.float32, SQUARE)
    p = warpgroup_mma(q, k.permute((1, 0)), zero, use_acc=False, is_async=True)
    zero = gl.zeros([BLOCK, COLUMNS], gl.float32, tall)
    if COLUMNS >= 64:
        state = state.permute((1, 0))
    o = warpgroup_mma(q, state, zero, use_acc=False, is_async=True)
    return p, o


@gluon.jit  # type: ignore[untyped-decorator]
def write_output(  # type: ignore[no-untyped-def]
    q_s, k_s, v_s, state_s, full, empty, ready, taken, out_ptr, out_step,
    slope_ptr, scale_read, scale_scores, offset, first, main, last, steps, value_dim, first_e,
    COLUMNS: gl.constexpr, STAGES: gl.constexpr, COPIES: gl.constexpr, FULL_E: gl.constexpr,
    PAIR: gl.constexpr,
):  # fmt: skip
    """Compute the rows of blocks main…last−1.

    A token of step i reads the state with weight scale_read·λ^(i+offset), and that of
    step j ≤ i in its own block with M = scale_scores·λ^(i−j), which takes 32 registers a thread.
    """
    dtype: gl.constexpr = q_s.dtype
    tall: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, COLUMNS, 16])
    scores: gl.constexpr = gl.DotOperandLayout(0, tall, 2)
    rows: gl.constexpr = row_layout(COLUMNS)
    row = gl.arange(0, BLOCK, gl.SliceLayout(1, rows))
    col = first_e + gl.arange(0, COLUMNS, gl.SliceLayout(0, rows))
    out_row = row * out_step
    out_block = out_step * BLOCK
    out_ptr += main.to(gl.int64) * out_block

    slope = load_slope(slope_ptr, steps)
    i = gl.arange(0, BLOCK, gl.SliceLayout(1, SQUARE))
    j = gl.arange(0, BLOCK, gl.SliceLayout(0, SQUARE))
    weight = exp2(gl.minimum(slope * (j[None, :] - i[:, None]).to(gl.float32), 0.0)) * scale_scores
    weight = gl.where(j[None, :] <= i[:, None], weight, 0.0)
    i = gl.arange(0, BLOCK, gl.SliceLayout(1, tall))
    read = exp2(-slope * (i + offset).to(gl.float32)) * scale_read

    place = main * 0 + PAIR
    if PAIR:
        async_copy.mbarrier_arrive(taken.index(0), increment_count=False)  # where no copy is
    p, o = _first_products(
        q_s, k_s, state_s, ready, main - first, place, main < last, COLUMNS, STAGES, COPIES, PAIR
    )
    p = warpgroup_mma_wait(1, deps=[p])  # [i, j]
    scored = gl.convert_layout((p * weight).to(dtype), scores)
    o = warpgroup_mma_wait(0, deps=[o]) * read[:, None]  # [i, COLUMNS]
    if not PAIR or main < last:
        async_copy.mbarrier_arrive(taken.index(PAIR), increment_count=False)
    for block in range(main, last):
        stage = (block - first) % STAGES
        v = v_s.index(stage)
        o = warpgroup_mma(scored, v, o, is_async=True)
        inside = rows_inside(row, col, steps - block * BLOCK, value_dim, FULL_E)
        o = warpgroup_mma_wait(0, deps=[o])
        async_copy.mbarrier_arrive(empty.index(stage), increment_count=False)
        done = gl.convert_layout(o.to(dtype), rows)
        # A store waits long to be taken: the next block's products are under way by then. After the last
        # block they are of whatever is there, and not used.
        later = block + 1
        place += 1
        p, o = _first_products(
            q_s, k_s, state_s, ready, later - first, place, later < last, COLUMNS, STAGES, COPIES, PAIR
        )
        gl.store(out_ptr + (out_row[:, None] + col[None, :]), done, mask=inside)
        out_ptr += out_block
        p = warpgroup_mma_wait(1, deps=[p])
        scored = gl.convert_layout((p * weight).to(dtype), scores)
        o = warpgroup_mma_wait(0, deps=[o]) * read[:, None]
        # A copy that was never written must not be taken: the state's warps may yet look at its barrier.
        if not PAIR or later < last:
            async_copy.mbarrier_arrive(taken.index(place % COPIES), increment_count=False)
