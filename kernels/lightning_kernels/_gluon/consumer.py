"""The consumers: each holds the state of COLUMNS columns of v and computes their columns of o.

For a block of B tokens, i and j their steps, KVᵀ [COLUMNS, BLOCK_D] the state in fp32 registers:

    O = Λ Q·KV + [(Q Kᵀ) ∘ M] V,    KVᵀ ← λ^B KVᵀ + (Vᵀ ∘ λ^(B−j)) K

The products of one block follow one another, so what decides is how long each step takes alone: the state
goes to shared memory once a block, rounded, as the second operand of Q·KV; scores and weighted Vᵀ are first
operands and stay in registers; the next block's scores and Q·KV are under way while this block's rows of o
are stored.
"""

import triton.experimental.gluon.language as gl
from triton.experimental import gluon
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from lightning_kernels._gluon.loader import BLOCK, COLUMNS


@gluon.jit
def exp2(x):  # type: ignore[no-untyped-def]
    """2^x; results below the normal numbers become zero."""
    return gl.inline_asm_elementwise(
        "ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=gl.float32, is_pure=True, pack=1
    )


@gluon.jit
def _weigh(v, high, low):  # type: ignore[no-untyped-def]
    """Multiply v [COLUMNS, BLOCK] by weights high + low [BLOCK] with one rounding, two elements at a time."""
    high, v = gl.broadcast(gl.expand_dims(high, 0), v)
    low, v = gl.broadcast(gl.expand_dims(low, 0), v)
    kind: gl.constexpr = "bf16x2" if v.dtype == gl.bfloat16 else "f16x2"
    return gl.inline_asm_elementwise(
        "{.reg .b32 rest; mul.rn." + kind + " rest, $1, $3; fma.rn." + kind + " $0, $1, $2, rest;}",
        "=r,r,r,r", [v, high, low], dtype=v.dtype, is_pure=True, pack=2,
    )  # fmt: skip


@gluon.jit  # type: ignore[untyped-decorator]
def consume(  # type: ignore[no-untyped-def]
    q_s, k_s, v_s, state_s, weight_s, fade_s, full, empty, out_ptr, out_step, initial_ptr, final_ptr,
    state_stride_d, state_stride_e, has_initial, has_final, slope, scale_read, offset,
    first, main, last, steps, key_dim, value_dim, first_e,
    BLOCK_D: gl.constexpr, CONSUMERS: gl.constexpr, STAGES: gl.constexpr, FULL_E: gl.constexpr,
    KEEP: gl.constexpr, MINE: gl.constexpr,
):  # fmt: skip
    """Walk blocks first…last−1, of which those before `main` change the state alone.

    slope is s·log₂e. A token of step i reads the state with weight scale_read·λ^(i+offset); weight_s holds M
    and fade_s the weights with which tokens are written, high and low half, for a whole block and for the
    last one. KEEP holds M in 32 registers a thread, where there are so many.
    """
    dtype: gl.constexpr = q_s.dtype
    square: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 64, 16])
    broad: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_D, 16])
    scores: gl.constexpr = gl.DotOperandLayout(0, square, 2)
    values: gl.constexpr = gl.DotOperandLayout(0, broad, 2)
    tokens: gl.constexpr = gl.SliceLayout(0, values)
    # As the products leave it, but for an exchange among the four threads of a row: each stores 16 bytes.
    rows: gl.constexpr = gl.DistributedLinearLayout(
        reg_bases=[[0, 1], [0, 2], [0, 4], [0, 32], [8, 0]],
        lane_bases=[[0, 8], [0, 16], [1, 0], [2, 0], [4, 0]],
        warp_bases=[[16, 0], [32, 0]],
        block_bases=[],
        shape=[64, 64],
    )
    row = gl.arange(0, BLOCK, gl.SliceLayout(1, rows))
    col = first_e + MINE * COLUMNS + gl.arange(0, COLUMNS, gl.SliceLayout(0, rows))
    out_row = row * out_step
    out_block = out_step * BLOCK
    out_ptr += main.to(gl.int64) * out_block

    i = gl.arange(0, BLOCK, gl.SliceLayout(1, square))
    read = exp2(-slope * (i + offset).to(gl.float32)) * scale_read
    block_decay = exp2(-slope * BLOCK)
    rest_decay = exp2(-slope * ((steps - 1) % BLOCK + 1).to(gl.float32))

    state_e = first_e + MINE * COLUMNS + gl.arange(0, COLUMNS, gl.SliceLayout(1, broad))
    state_d = gl.arange(0, BLOCK_D, gl.SliceLayout(0, broad))
    state_tile = state_e[:, None] * state_stride_e + state_d[None, :] * state_stride_d
    state_ok = (state_e[:, None] < value_dim) & (state_d[None, :] < key_dim)
    if initial_ptr is not None:
        state = gl.load(initial_ptr + state_tile, mask=state_ok & has_initial, other=0.0)
    else:
        state = gl.zeros([COLUMNS, BLOCK_D], gl.float32, broad)

    for block in range(first, main):
        turn = block - first
        stage = turn % STAGES
        mbarrier.wait(full.index(stage), (turn // STAGES) & 1)
        fence_async_shared()
        v_t = v_s.index(stage * CONSUMERS + MINE).permute((1, 0))
        weighted = _weigh(v_t.load(values), fade_s.index(0).load(tokens), fade_s.index(1).load(tokens))
        state = warpgroup_mma(weighted, k_s.index(stage), state * block_decay, is_async=True)
        state = warpgroup_mma_wait(0, deps=[state])
        # By every thread for itself, which costs no barrier among them.
        async_copy.mbarrier_arrive(empty.index(stage), increment_count=False)

    zero = gl.zeros([BLOCK, BLOCK], gl.float32, square)
    weight = weight_s.load(square)
    turn = main - first
    stage = turn % STAGES
    size = gl.minimum(steps - main * BLOCK, BLOCK)
    state_s.store(state.to(dtype))
    mbarrier.wait(full.index(stage), (turn // STAGES) & 1, pred=main < last)
    fence_async_shared()
    decay = gl.where(size < BLOCK, rest_decay, block_decay)
    which = gl.where(size < BLOCK, 2, 0)
    high = fade_s.index(which).load(tokens)
    low = fade_s.index(which + 1).load(tokens)
    p = warpgroup_mma(q_s.index(stage), k_s.index(stage).permute((1, 0)), zero, use_acc=False, is_async=True)
    o = warpgroup_mma(q_s.index(stage), state_s.permute((1, 0)), zero, use_acc=False, is_async=True)
    v = v_s.index(stage * CONSUMERS + MINE)
    weighted = _weigh(v.permute((1, 0)).load(values), high, low)
    p = warpgroup_mma_wait(1, deps=[p])  # [i, j]
    scored = gl.convert_layout((p * weight).to(dtype), scores)
    o = warpgroup_mma_wait(0, deps=[o]) * read[:, None]  # [i, COLUMNS]
    for block in range(main, last):
        o = warpgroup_mma(scored, v_s.index(stage * CONSUMERS + MINE), o, is_async=True)
        state = warpgroup_mma(weighted, k_s.index(stage), state * decay, is_async=True)
        o = warpgroup_mma_wait(1, deps=[o])
        ready = gl.convert_layout(o.to(dtype), rows)
        inside = (row < size)[:, None]
        if not FULL_E:
            inside = inside & (col[None, :] < value_dim)
        state = warpgroup_mma_wait(0, deps=[state])
        async_copy.mbarrier_arrive(empty.index(stage), increment_count=False)
        state_s.store(state.to(dtype))

        turn = block + 1 - first
        stage = turn % STAGES
        size = gl.minimum(steps - (block + 1) * BLOCK, BLOCK)
        mbarrier.wait(full.index(stage), (turn // STAGES) & 1, pred=block + 1 < last)
        fence_async_shared()
        decay = gl.where(size < BLOCK, rest_decay, block_decay)
        which = gl.where(size < BLOCK, 2, 0)
        high = fade_s.index(which).load(tokens)
        low = fade_s.index(which + 1).load(tokens)
        q = q_s.index(stage)  # after the last block: whatever is there, and the products are not used
        p = warpgroup_mma(q, k_s.index(stage).permute((1, 0)), zero, use_acc=False, is_async=True)
        o = warpgroup_mma(q, state_s.permute((1, 0)), zero, use_acc=False, is_async=True)
        gl.store(out_ptr + (out_row[:, None] + col[None, :]), ready, mask=inside)
        out_ptr += out_block
        v = v_s.index(stage * CONSUMERS + MINE)
        weighted = _weigh(v.permute((1, 0)).load(values), high, low)
        p = warpgroup_mma_wait(1, deps=[p])
        if not KEEP:
            weight = weight_s.load(square)
        scored = gl.convert_layout((p * weight).to(dtype), scores)
        o = warpgroup_mma_wait(0, deps=[o]) * read[:, None]

    if final_ptr is not None:
        # Addresses that are known before the loop would be kept through it, in registers that are not there.
        late = gl.minimum(turn, 0)  # 0
        state_tile = (state_e + late)[:, None] * state_stride_e + (state_d + late)[None, :] * state_stride_d
        state_ok = ((state_e + late)[:, None] < value_dim) & ((state_d + late)[None, :] < key_dim)
        gl.store(final_ptr + state_tile, state, mask=state_ok & has_final)
