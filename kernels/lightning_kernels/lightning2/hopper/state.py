"""The state's warps: they hold the state KVᵀ of a program in fp32 registers and carry it from block to block.

    KVᵀ ← λ^B KVᵀ + (Vᵀ ∘ λ^(B−j)) K

for a block of B tokens, j their steps; with 32 columns, KV ← λ^B KV + (Kᵀ ∘ λ^(B−j)) V. This is the one chain
of dependent products of the whole pass, so these warps do nothing else. Before each block whose rows are
computed they leave a rounded copy of the state in a ring in shared memory, from which the output's warps
multiply.
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

from lightning_kernels.lightning2.hopper.loader import BLOCK

ALIGNED = gl.constexpr(4)
"""Segments compute rows from a multiple of so many blocks on; a multiple of each GROUP."""


@gluon.jit
def exp2(x):  # type: ignore[no-untyped-def]
    """2^x; results below the normal numbers become zero."""
    return gl.inline_asm_elementwise(
        "ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=gl.float32, is_pure=True, pack=1
    )


@gluon.jit
def load_slope(slope_ptr, steps):  # type: ignore[no-untyped-def]
    """Load s·log₂e, here and not for all warps at once, so that the loader need not wait for it."""
    slope = (steps * 0).to(gl.float32)
    if slope_ptr is not None:
        slope = gl.load(slope_ptr).to(gl.float32) * 1.4426950408889634
    return slope


@gluon.jit
def _weigh(v, high, low):  # type: ignore[no-untyped-def]
    """Multiply v, or k, [·, BLOCK] by weights high + low [BLOCK] with one rounding, two elements at a time.

    Not declared pure, so that the compiler leaves it where it stands: in the shadow of a product.
    """
    high, v = gl.broadcast(gl.expand_dims(high, 0), v)
    low, v = gl.broadcast(gl.expand_dims(low, 0), v)
    kind: gl.constexpr = "bf16x2" if v.dtype == gl.bfloat16 else "f16x2"
    return gl.inline_asm_elementwise(
        "{.reg .b32 rest; mul.rn." + kind + " rest, $1, $3; fma.rn." + kind + " $0, $1, $2, rest;}",
        "=r,r,r,r", [v, high, low], dtype=v.dtype, is_pure=False, pack=2,
    )  # fmt: skip


@gluon.jit  # type: ignore[untyped-decorator]
def _store_fade(fade_s, index: gl.constexpr, fade):  # type: ignore[no-untyped-def]
    high = fade.to(fade_s.dtype)
    fade_s.index(2 * index).store(high)
    fade_s.index(2 * index + 1).store((fade - high.to(gl.float32)).to(fade_s.dtype))


@gluon.jit  # type: ignore[untyped-decorator]
def _fill_fade(fade_s, slope, scale_write, offset, steps, GROUP: gl.constexpr):  # type: ignore[no-untyped-def]
    """Compute with which weights tokens are written, in two halves: 0, 1, … blocks before the end of a group,
    and in the last block of a sequence.
    """
    j = gl.arange(0, BLOCK, gl.BlockedLayout([1], [32], [gl.num_warps()], [0]))
    for i in gl.static_range(GROUP):
        _store_fade(fade_s, i, exp2(-slope * ((i + 1) * BLOCK - j - offset).to(gl.float32)) * scale_write)
    late = j + offset - ((steps - 1) % BLOCK + 1)
    _store_fade(fade_s, GROUP, exp2(gl.minimum(slope * late.to(gl.float32), 0.0)) * scale_write)


@gluon.jit  # type: ignore[untyped-decorator]
def _read(left_s, fade_s, index, values: gl.constexpr):  # type: ignore[no-untyped-def]
    """Read the left factor of a block, transposed, and the weights λ^(B−j) with which it is written."""
    tokens: gl.constexpr = gl.SliceLayout(0, values)
    high = fade_s.index(2 * index).load(tokens)
    return left_s.permute((1, 0)).load(values), high, fade_s.index(2 * index + 1).load(tokens)


@gluon.jit
def _release(empty, stage):  # type: ignore[no-untyped-def]
    """Give back a stage for the output's warps, too, which have nothing to do with it."""
    async_copy.mbarrier_arrive(empty.index(stage), increment_count=False)
    async_copy.mbarrier_arrive(empty.index(stage), increment_count=False)


@gluon.jit  # type: ignore[untyped-decorator]
def _walk_blocks(  # type: ignore[no-untyped-def]
    left_s, right_s, state_s, fade_s, full, empty, ready, taken, first, main, last, steps,
    state, block_decay, last_decay, values: gl.constexpr, STAGES: gl.constexpr, COPIES: gl.constexpr,
    GROUP: gl.constexpr, EARLY: gl.constexpr,
):  # fmt: skip
    """Carry the state over blocks main…last−1, one a turn.

    EARLY reads the next block's v before the state is written and multiplied rather than during the product,
    which leaves other readers little of shared memory: faster where the product is long and the ring deep
    enough. Eight warps, which have no registers to spare, read it after the product.
    """
    LATE: gl.constexpr = gl.num_warps() == 8
    dtype: gl.constexpr = right_s.dtype
    turn = main - first
    mbarrier.wait(full.index(turn % STAGES), (turn // STAGES) & 1, pred=main < last)
    which = gl.where(steps - main * BLOCK < BLOCK, GROUP, 0)
    left, high, low = _read(left_s.index(turn % STAGES), fade_s, which, values)
    weighted = _weigh(left, high, low)
    for block in range(main, last):
        stage = (block - first) % STAGES
        turn = block + 1 - first
        size = gl.minimum(steps - (block + 1) * BLOCK, BLOCK)
        which = gl.where(size < BLOCK, GROUP, 0)
        # After the last block: whatever is there, and it is not used.
        if EARLY:
            mbarrier.wait(full.index(turn % STAGES), (turn // STAGES) & 1, pred=block + 1 < last)
            left, high, low = _read(left_s.index(turn % STAGES), fade_s, which, values)
        copy = (block - main) % COPIES
        mbarrier.wait(taken.index(copy), (((block - main) // COPIES) & 1) ^ 1)
        state_s.index(copy).store(state.to(dtype))
        fence_async_shared()  # for what the loader wrote, too, on the way to both readers
        mbarrier.arrive(ready.index(copy), count=1)
        decay = gl.where(size <= 0, last_decay, block_decay)
        state = warpgroup_mma(weighted, right_s.index(stage), state * decay, is_async=True)
        if LATE:
            state = warpgroup_mma_wait(0, deps=[state])
            async_copy.mbarrier_arrive(empty.index(stage), increment_count=False)
        if not EARLY:
            mbarrier.wait(full.index(turn % STAGES), (turn // STAGES) & 1, pred=block + 1 < last)
            left, high, low = _read(left_s.index(turn % STAGES), fade_s, which, values)
        weighted = _weigh(left, high, low)
        if not LATE:
            state = warpgroup_mma_wait(0, deps=[state])
            # By every thread for itself, which costs no barrier among them.
            async_copy.mbarrier_arrive(empty.index(stage), increment_count=False)
    return state


@gluon.jit  # type: ignore[untyped-decorator]
def _read_pair(  # type: ignore[no-untyped-def]
    left_s, fade_s, full, turn, block, last, steps, values: gl.constexpr, STAGES: gl.constexpr,
    GROUP: gl.constexpr,
):  # fmt: skip
    """Wait for blocks `block` and the next and return both as they are written: weighed, transposed.

    From `last` on they are whatever is there.
    """
    one, two = turn % STAGES, (turn + 1) % STAGES
    left = steps - block * BLOCK
    mbarrier.wait(full.index(one), (turn // STAGES) & 1, pred=block < last)
    a, high, low = _read(left_s.index(one), fade_s, gl.where(left < BLOCK, GROUP, 0), values)
    a = _weigh(a, high, low)
    mbarrier.wait(full.index(two), ((turn + 1) // STAGES) & 1, pred=block + 1 < last)
    b, high, low = _read(left_s.index(two), fade_s, gl.where(left < 2 * BLOCK, GROUP, 0), values)
    return a, _weigh(b, high, low)


@gluon.jit  # type: ignore[untyped-decorator]
def _walk_pairs(  # type: ignore[no-untyped-def]
    left_s, right_s, state_s, fade_s, full, empty, ready, taken, first, main, last, steps,
    state, block_decay, last_decay, values: gl.constexpr, STAGES: gl.constexpr, COPIES: gl.constexpr,
    GROUP: gl.constexpr,
):  # fmt: skip
    """Carry the state over blocks main…last−1, two a turn: their products run together, and the copies
    before the second and before the next pair share one fence and one barrier.

    Copy number c, before block main + c, lies in place c + 1 of the ring; `ready` is that of two places.
    """
    dtype: gl.constexpr = right_s.dtype
    zero = gl.zeros_like(state)
    a, b = _read_pair(left_s, fade_s, full, main - first, main, last, steps, values, STAGES, GROUP)
    state_s.index(1).store(state.to(dtype))
    fence_async_shared()  # for what the loader wrote, too, on the way to both readers
    mbarrier.arrive(ready.index(0), count=1)
    for pair in range(gl.cdiv(last - main, 2)):
        block = main + 2 * pair
        turn = block - first
        one, two = turn % STAGES, (turn + 1) % STAGES
        left = steps - (block + 1) * BLOCK
        decay = gl.where(left <= 0, last_decay, block_decay)
        state = warpgroup_mma(a, right_s.index(one), state * decay, is_async=True)
        gain = warpgroup_mma(b, right_s.index(two), zero, use_acc=False, is_async=True)
        a, b = _read_pair(left_s, fade_s, full, turn + 2, block + 2, last, steps, values, STAGES, GROUP)
        state, gain = warpgroup_mma_wait(0, deps=[state, gain])
        # By every thread for itself, which costs no barrier among them.
        async_copy.mbarrier_arrive(empty.index(one), increment_count=False)
        async_copy.mbarrier_arrive(empty.index(two), increment_count=False)
        place = (2 * pair + 2) % COPIES
        parity = (((2 * pair + 2) // COPIES) & 1) ^ 1
        mbarrier.wait(taken.index(place), parity)
        mbarrier.wait(taken.index(place + 1), parity)
        state_s.index(place).store(state.to(dtype))
        decay = gl.where(left <= BLOCK, last_decay, block_decay)
        state = gl.where(block + 1 < last, state * decay + gain, state)
        state_s.index(place + 1).store(state.to(dtype))
        fence_async_shared()
        mbarrier.arrive(ready.index(place // 2), count=1)
    return state


@gluon.jit  # type: ignore[untyped-decorator]
def carry_state(  # type: ignore[no-untyped-def]
    k_s, v_s, state_s, fade_s, full, empty, ready, taken, initial_ptr, final_ptr,
    state_stride_d, state_stride_e, has_initial, has_final, slope_ptr, scale_write, offset,
    first, main, last, steps, key_dim, value_dim, first_e,
    BLOCK_D: gl.constexpr, COLUMNS: gl.constexpr, STAGES: gl.constexpr, COPIES: gl.constexpr,
    GROUP: gl.constexpr, EARLY: gl.constexpr, PAIR: gl.constexpr, AHEAD: gl.constexpr,
):  # fmt: skip
    """Walk blocks first…last−1 and leave a copy of the state before each from `main` on.

    Blocks before `main`, where AHEAD says that there may be some, are walked over in groups of GROUP: the
    state decays once a group, whose products are in flight together. A token of step j is written with weight
    scale_write·λ^(B−j−offset). The state is held as VᵀK, or as KᵀV where there are fewer columns than the 64
    rows that a product has at least.
    """
    ROWS: gl.constexpr = BLOCK_D if COLUMNS < 64 else COLUMNS
    COLS: gl.constexpr = COLUMNS if COLUMNS < 64 else BLOCK_D
    if COLUMNS < 64:
        left_s, right_s = k_s, v_s
    else:
        left_s, right_s = v_s, k_s
    broad: gl.constexpr = gl.NVMMADistributedLayout(
        [3, 0], [gl.num_warps(), 1], [16, 128 if COLS == 256 else COLS, 16]
    )
    values: gl.constexpr = gl.DotOperandLayout(0, broad, 2)
    slope = load_slope(slope_ptr, steps)

    block_decay = exp2(-slope * BLOCK)
    last_decay = exp2(-slope * ((steps - 1) % BLOCK + 1).to(gl.float32))
    row = gl.arange(0, ROWS, gl.SliceLayout(1, broad))
    col = gl.arange(0, COLS, gl.SliceLayout(0, broad))
    if COLUMNS < 64:
        row_stride, row_end, col_stride, col_end = state_stride_d, key_dim, state_stride_e, value_dim
        col += first_e
    else:
        row_stride, row_end, col_stride, col_end = state_stride_e, value_dim, state_stride_d, key_dim
        row += first_e
    if initial_ptr is not None:
        tile = row[:, None] * row_stride + col[None, :] * col_stride
        inside = (row[:, None] < row_end) & (col[None, :] < col_end)
        state = gl.load(initial_ptr + tile, mask=inside & has_initial, other=0.0)
    else:
        state = gl.zeros([ROWS, COLS], gl.float32, broad)

    _fill_fade(fade_s, slope, scale_write, offset, steps, GROUP)
    if AHEAD:
        group_decay = exp2(-slope * (GROUP * BLOCK))
        for group in range(first // GROUP, main // GROUP):
            state = state * group_decay
            for i in gl.static_range(GROUP):
                turn = group * GROUP + i - first
                stage = turn % STAGES
                mbarrier.wait(full.index(stage), (turn // STAGES) & 1)
                left, high, low = _read(left_s.index(stage), fade_s, GROUP - 1 - i, values)
                fence_async_shared()
                state = warpgroup_mma(_weigh(left, high, low), right_s.index(stage), state, is_async=True)
                if i > 0:
                    state = warpgroup_mma_wait(1, deps=[state])
                    _release(empty, (turn - 1) % STAGES)
            state = warpgroup_mma_wait(0, deps=[state])
            _release(empty, (group * GROUP + GROUP - 1 - first) % STAGES)

    if PAIR:
        state = _walk_pairs(
            left_s, right_s, state_s, fade_s, full, empty, ready, taken, first, main, last, steps,
            state, block_decay, last_decay, values, STAGES, COPIES, GROUP,
        )  # fmt: skip
    else:
        state = _walk_blocks(
            left_s, right_s, state_s, fade_s, full, empty, ready, taken, first, main, last, steps,
            state, block_decay, last_decay, values, STAGES, COPIES, GROUP, EARLY,
        )  # fmt: skip

    if final_ptr is not None:
        # Addresses that are known before the loop would be kept through it, in registers that are not there.
        late = gl.minimum(last - first, 0)  # 0
        tile = (row + late)[:, None] * row_stride + (col + late)[None, :] * col_stride
        inside = ((row + late)[:, None] < row_end) & ((col + late)[None, :] < col_end)
        gl.store(final_ptr + tile, state, mask=inside & has_final)
