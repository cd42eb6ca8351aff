"""The output's warps of the wide kernel: head_dim above 128, 128 columns a program, one copy of the state.

The state alone takes half of the registers of a multiprocessor, in eight warps, and its copy with a ring of
two blocks all of the shared memory. These four warps have 136 registers a thread left for the same work as
`output.write_output`: so they weigh the scores of a block before they multiply with the state, from 12
registers of weights instead of 32. TMA brings the tiles, whose loader needs few registers and its readers no
fence, which would wait for their stores.
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
from lightning_kernels.lightning2.hopper.output import SQUARE, row_layout, rows_inside
from lightning_kernels.lightning2.hopper.state import exp2, load_slope


@gluon.jit  # type: ignore[untyped-decorator]
def _scores(q_s, k_s, full, turn, wanted, STAGES: gl.constexpr):  # type: ignore[no-untyped-def]
    """Start Q Kᵀ of a block as soon as it has come in."""
    stage = turn % STAGES
    mbarrier.wait(full.index(stage), (turn // STAGES) & 1, pred=wanted)
    zero = gl.zeros([BLOCK, BLOCK], gl.float32, SQUARE)
    k = k_s.index(stage).permute((1, 0))
    return warpgroup_mma(q_s.index(stage), k, zero, use_acc=False, is_async=True)


@gluon.jit
def _causal(p, i, j):  # type: ignore[no-untyped-def]
    """Set to zero where j > i. As a plain `where`, ptxas would run all products of the kernel one by one."""
    i, p = gl.broadcast(i, p)
    j, p = gl.broadcast(j, p)
    return gl.inline_asm_elementwise(
        "{.reg .pred causal; setp.ge.s32 causal, $2, $3; selp.f32 $0, $1, 0f00000000, causal;}",
        "=f,f,r,r", [p, i, j], dtype=gl.float32, is_pure=True, pack=1,
    )  # fmt: skip


@gluon.jit  # type: ignore[untyped-decorator]
def write_wide_output(  # type: ignore[no-untyped-def]
    q_s, k_s, v_s, state_s, full, empty, ready, taken, out_ptr, out_step,
    slope_ptr, scale_read, scale_scores, offset, last, steps, value_dim, first_e,
    COLUMNS: gl.constexpr, STAGES: gl.constexpr, FULL_E: gl.constexpr,
):  # fmt: skip
    """Compute the rows of blocks 0…last−1 with the weights of `output.write_output`.

    Of the scores that a thread has, in rows r and r + 8 and columns 8t + c and 8t + c + 1, it keeps
    λ^(r+4−8t−c) and the four factors to the weights λ^(i−j), a register each.
    """
    dtype: gl.constexpr = q_s.dtype
    tall: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, COLUMNS, 16])
    scores: gl.constexpr = gl.DotOperandLayout(0, tall, 2)
    rows: gl.constexpr = row_layout(COLUMNS)
    row = gl.arange(0, BLOCK, gl.SliceLayout(1, rows))
    col = first_e + gl.arange(0, COLUMNS, gl.SliceLayout(0, rows))
    out_row = row * out_step
    out_block = out_step * BLOCK

    slope = load_slope(slope_ptr, steps)
    # So that both parts of a weight are within fp32; a neighbour counts for 2⁻²⁰ then, which is nothing to o.
    steep = gl.minimum(slope, 20.0)
    i = gl.arange(0, BLOCK, gl.SliceLayout(1, SQUARE))[:, None]
    j = gl.arange(0, BLOCK, gl.SliceLayout(0, SQUARE))[None, :]
    near = exp2(steep * ((j & -2) - (i & -9) - 4).to(gl.float32))
    rest = exp2(steep * ((j & 1) - (i & 8) + 4).to(gl.float32)) * scale_scores
    read = exp2(-slope * (gl.arange(0, BLOCK, gl.SliceLayout(1, tall)) + offset).to(gl.float32)) * scale_read

    p = _scores(q_s, k_s, full, 0, last > 0, STAGES)
    p = warpgroup_mma_wait(0, deps=[p])  # [i, j]
    scored = gl.convert_layout(_causal(p * near * rest, i, j).to(dtype), scores)
    for block in range(last):
        stage = block % STAGES
        mbarrier.wait(ready.index(0), block & 1)
        zero = gl.zeros([BLOCK, COLUMNS], gl.float32, tall)
        state = state_s.index(0).permute((1, 0))
        o = warpgroup_mma(q_s.index(stage), state, zero, use_acc=False, is_async=True)
        o = warpgroup_mma_wait(0, deps=[o])  # [i, COLUMNS]
        async_copy.mbarrier_arrive(taken.index(0), increment_count=False)
        o = o * read[:, None]
        o = warpgroup_mma(scored, v_s.index(stage), o, is_async=True)
        inside = rows_inside(row, col, steps - block * BLOCK, value_dim, FULL_E)
        o = warpgroup_mma_wait(0, deps=[o])
        async_copy.mbarrier_arrive(empty.index(stage), increment_count=False)
        done = gl.convert_layout(o.to(dtype), rows)
        # After the last block: of whatever is there, and not used.
        p = _scores(q_s, k_s, full, block + 1, block + 1 < last, STAGES)
        gl.store(out_ptr + (out_row[:, None] + col[None, :]), done, mask=inside)
        out_ptr += out_block
        p = warpgroup_mma_wait(0, deps=[p])
        scored = gl.convert_layout(_causal(p * near * rest, i, j).to(dtype), scores)
