"""The state's warps: they hold the state KVᵀ of a program in fp32 registers and carry it from block to block.

    KVᵀ ← λ^B KVᵀ + (Vᵀ ∘ λ^(B−j)) K

for a block of B tokens, j their steps; with 32 columns, KV ← λ^B KV + (Kᵀ ∘ λ^(B−j)) V. This is the only
chain of dependent products of the whole pass, so these warps do nothing else. Before each block whose rows
are computed they leave a rounded copy of the state in a ring in shared memory, from which the output's warps
multiply.
"""

import triton.experimental.gluon.language as gl
from triton.experimental import gluon
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from ..tiles import CATCH_UP, STEEPEST
from .exchange import Extent, exchanged
from .rings import BLOCK

_CATCH_UP = gl.constexpr(CATCH_UP)
_STEEPEST = gl.constexpr(STEEPEST)


@gluon.jit
def exp2(x):  # type: ignore[no-untyped-def]
    """Return 2^x; results below the normal numbers become zero."""
    return gl.inline_asm_elementwise(
        "ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=gl.float32, is_pure=True, pack=1
    )


@gluon.jit
def load_slope(slope_ptr, steps):  # type: ignore[no-untyped-def]
    """Load s·log₂e, here and not for all warps at once, so that the loader need not wait for it."""
    slope = (steps * 0).to(gl.float32)
    if slope_ptr is not None:
        slope = gl.load(slope_ptr).to(gl.float32)
        slope = gl.where(slope > _STEEPEST, _STEEPEST, slope) * 1.4426950408889634
    return slope


@gluon.jit
def _decay_of(slope_ptr, steps, tokens):  # type: ignore[no-untyped-def]
    """Return λ^tokens, and what the state is multiplied by instead once in _CATCH_UP times.

    What is off in a rounded decay adds up, always to the same side: 2⁻²⁵ in each block. That of _CATCH_UP
    times is as exact as one.
    """
    decay = (steps * 0 + 1).to(gl.float32)
    catch_up = decay
    if slope_ptr is not None:
        exact = gl.exp(gl.load(slope_ptr).to(gl.float64) * -tokens)
        decay = exact.to(gl.float32)
        catch_up = (exact + (exact - decay.to(gl.float64)) * (_CATCH_UP - 1)).to(gl.float32)
    return decay, catch_up


@gluon.jit
def _weigh(v, high, low):  # type: ignore[no-untyped-def]
    """Multiply v, or k, [·, BLOCK] by weights high + low [BLOCK] with one rounding, two elements at a time.

    It is not declared pure, so that the compiler leaves it in its place: while a product runs.
    """
    high, v = gl.broadcast(gl.expand_dims(high, 0), v)
    low, v = gl.broadcast(gl.expand_dims(low, 0), v)
    kind: gl.constexpr = "bf16x2" if v.dtype == gl.bfloat16 else "f16x2"
    return gl.inline_asm_elementwise(
        "{.reg .b32 rest; mul.rn." + kind + " rest, $1, $3; fma.rn." + kind + " $0, $1, $2, rest;}",
        "=r,r,r,r", [v, high, low], dtype=v.dtype, is_pure=False, pack=2,
    )  # fmt: skip


@gluon.jit  # type: ignore[untyped-decorator]
def _store_weights(weights_s, index: gl.constexpr, weights):  # type: ignore[no-untyped-def]
    high = weights.to(weights_s.dtype)
    weights_s.index(2 * index).store(high)
    weights_s.index(2 * index + 1).store((weights - high.to(gl.float32)).to(weights_s.dtype))


@gluon.jit  # type: ignore[untyped-decorator]
def _fill_weights(weights_s, slope, decay, walk, GROUP: gl.constexpr):  # type: ignore[no-untyped-def]
    """Compute the weights with which tokens are written to the state, each in a high and a low half.

    Row pair i is for blocks that are i blocks before the end of a group, and pair GROUP for the last block of
    a sequence.
    """
    j = gl.arange(0, BLOCK, gl.BlockedLayout([1], [32], [gl.num_warps()], [0])) ^ walk.flip
    for i in gl.static_range(GROUP):
        before = (i + 1) * BLOCK - j - decay.offset
        _store_weights(weights_s, i, exp2(-slope * before.to(gl.float32)) * decay.scale_write)
    late = j + decay.offset - ((walk.steps - 1) % BLOCK + 1)
    _store_weights(weights_s, GROUP, exp2(gl.minimum(slope * late.to(gl.float32), 0.0)) * decay.scale_write)


@gluon.jit  # type: ignore[untyped-decorator]
def _read(left_s, weights_s, index, values: gl.constexpr):  # type: ignore[no-untyped-def]
    """Read the left factor of a block, transposed, and the weights λ^(B−j) with which it is written."""
    tokens: gl.constexpr = gl.SliceLayout(0, values)
    high = weights_s.index(2 * index).load(tokens)
    return left_s.permute((1, 0)).load(values), high, weights_s.index(2 * index + 1).load(tokens)


@gluon.jit  # type: ignore[untyped-decorator]
def _walk_ahead(  # type: ignore[no-untyped-def]
    ring, left_s, right_s, weights_s, walk, state, decays, values: gl.constexpr, GROUP: gl.constexpr
):  # fmt: skip
    """Carry the state over the blocks before `main` in groups of GROUP.

    The state decays once per group, whose products are in flight together. Stages are released twice: also
    for the output's warps, which do not read these blocks.
    """
    group_decay, catch_up = decays
    for group in range((walk.main - walk.first) // GROUP):
        state = state * gl.where(group % _CATCH_UP == 0, catch_up, group_decay)
        for i in gl.static_range(GROUP):
            turn = group * GROUP + i
            stage = ring.wait(turn)
            left, high, low = _read(left_s.index(stage), weights_s, GROUP - 1 - i, values)
            fence_async_shared()
            state = warpgroup_mma(_weigh(left, high, low), right_s.index(stage), state, is_async=True)
            if i > 0:
                state = warpgroup_mma_wait(1, deps=[state])
                ring.release((turn - 1) % ring.stages)
                ring.release((turn - 1) % ring.stages)
        state = warpgroup_mma_wait(0, deps=[state])
        ring.release((group * GROUP + GROUP - 1) % ring.stages)
        ring.release((group * GROUP + GROUP - 1) % ring.stages)
    return state


@gluon.jit  # type: ignore[untyped-decorator]
def _walk_blocks(  # type: ignore[no-untyped-def]
    ring, states, left_s, right_s, weights_s, walk, state, decays, last_decay, values: gl.constexpr,
    TILES: gl.constexpr,
):  # fmt: skip
    """Carry the state over blocks main…last−1, one per turn.

    `early` tiles read the next block's v before the state is written and multiplied rather than during the
    product, which leaves other readers little of shared memory: faster where the product is long and the ring
    deep enough. The eight warps of wide tiles, which have no registers to spare, read it after the product.
    """
    dtype: gl.constexpr = right_s.dtype
    first, main, last = walk.first, walk.main, walk.last
    block_decay, catch_up = decays
    stage = ring.wait(main - first, main < last)
    which = gl.where(walk.steps - main * BLOCK < BLOCK, TILES.group, 0)
    left, high, low = _read(left_s.index(stage), weights_s, which, values)
    weighted = _weigh(left, high, low)
    for block in range(main, last):
        stage = (block - first) % ring.stages
        later = block + 1
        size = gl.minimum(walk.steps - later * BLOCK, BLOCK)
        which = gl.where(size < BLOCK, TILES.group, 0)
        # After the last block: whatever the ring holds, and it is not used.
        if TILES.early:
            next_stage = ring.wait(later - first, later < last)
            left, high, low = _read(left_s.index(next_stage), weights_s, which, values)
        place = states.acquire(block - main)
        states.tiles.index(place).store(state.to(dtype))
        states.publish(place)
        decay = gl.where(block % _CATCH_UP == 0, catch_up, block_decay)
        decay = gl.where(size <= 0, last_decay, decay)
        state = warpgroup_mma(weighted, right_s.index(stage), state * decay, is_async=True)
        if TILES.wide:
            state = warpgroup_mma_wait(0, deps=[state])
            ring.release(stage)
        if not TILES.early:
            next_stage = ring.wait(later - first, later < last)
            left, high, low = _read(left_s.index(next_stage), weights_s, which, values)
        weighted = _weigh(left, high, low)
        if not TILES.wide:
            state = warpgroup_mma_wait(0, deps=[state])
            ring.release(stage)
    return state


@gluon.jit  # type: ignore[untyped-decorator]
def _read_pair(  # type: ignore[no-untyped-def]
    ring, left_s, weights_s, walk, block, values: gl.constexpr, GROUP: gl.constexpr
):  # fmt: skip
    """Wait for block `block` and the next and return the left factors of both, weighed.

    From `last` on they are whatever the ring holds.
    """
    turn = block - walk.first
    left = walk.steps - block * BLOCK
    stage = ring.wait(turn, block < walk.last)
    a, high, low = _read(left_s.index(stage), weights_s, gl.where(left < BLOCK, GROUP, 0), values)
    a = _weigh(a, high, low)
    stage = ring.wait(turn + 1, block + 1 < walk.last)
    b, high, low = _read(left_s.index(stage), weights_s, gl.where(left < 2 * BLOCK, GROUP, 0), values)
    return a, _weigh(b, high, low)


@gluon.jit  # type: ignore[untyped-decorator]
def _walk_pairs(  # type: ignore[no-untyped-def]
    ring, states, left_s, right_s, weights_s, walk, state, decays, last_decay, values: gl.constexpr,
    TILES: gl.constexpr,
):  # fmt: skip
    """Carry the state over blocks main…last−1, two per turn.

    Their products run together, and the copies before the second and before the next pair share one fence and
    one barrier.
    The copy before block main + c is number c + 1, so that those of a turn share a `ready` barrier.
    """
    dtype: gl.constexpr = right_s.dtype
    block_decay, catch_up = decays
    zero = gl.zeros_like(state)
    a, b = _read_pair(ring, left_s, weights_s, walk, walk.main, values, TILES.group)
    states.tiles.index(1).store(state.to(dtype))
    states.publish(1)
    for pair in range(gl.cdiv(walk.last - walk.main, 2)):
        block = walk.main + 2 * pair
        turn = block - walk.first
        one, two = turn % ring.stages, (turn + 1) % ring.stages
        left = walk.steps - (block + 1) * BLOCK
        decay = gl.where(pair % (_CATCH_UP // 2) == 0, catch_up, block_decay)
        decay = gl.where(left <= 0, last_decay, decay)
        state = warpgroup_mma(a, right_s.index(one), state * decay, is_async=True)
        gain = warpgroup_mma(b, right_s.index(two), zero, use_acc=False, is_async=True)
        a, b = _read_pair(ring, left_s, weights_s, walk, block + 2, values, TILES.group)
        state, gain = warpgroup_mma_wait(0, deps=[state, gain])
        ring.release(one)
        ring.release(two)
        place = states.acquire(2 * pair + 2)
        states.tiles.index(place).store(state.to(dtype))
        decay = gl.where(left <= BLOCK, last_decay, block_decay)
        state = gl.where(block + 1 < walk.last, state * decay + gain, state)
        states.tiles.index(place + 1).store(state.to(dtype))
        states.publish(place)
    return state


@gluon.jit  # type: ignore[untyped-decorator]
def carry_state(  # type: ignore[no-untyped-def]
    ring, states, weights_s, ends, exchange, decay, walk, bounds, TILES: gl.constexpr
):  # fmt: skip
    """Walk blocks first…last−1 and leave a copy of the state before each from `main` on.

    A token of step j is written with weight scale_write·λ^(B−j−offset). The state is held as VᵀK, or as KᵀV
    where there are fewer columns than the 64 rows that a product has at least.
    """
    BLOCK_D: gl.constexpr = TILES.block_d
    COLUMNS: gl.constexpr = TILES.columns
    ROWS: gl.constexpr = BLOCK_D if COLUMNS < 64 else COLUMNS
    COLS: gl.constexpr = COLUMNS if COLUMNS < 64 else BLOCK_D
    if COLUMNS < 64:
        left_s, right_s = ring.k, ring.v
    else:
        left_s, right_s = ring.v, ring.k
    broad: gl.constexpr = gl.NVMMADistributedLayout(
        [3, 0], [gl.num_warps(), 1], [16, 128 if COLS == 256 else COLS, 16]
    )
    values: gl.constexpr = gl.DotOperandLayout(0, broad, 2)
    steps = walk.steps
    slope = load_slope(decay.slope_ptr, steps)

    decays = _decay_of(decay.slope_ptr, steps, BLOCK)
    last_decay = exp2(-slope * ((steps - 1) % BLOCK + 1).to(gl.float32))
    if COLUMNS < 64:
        extent = Extent(0, bounds.key_dim, ends.stride_d, bounds.first_e, bounds.value_dim, ends.stride_e)
    else:
        extent = Extent(bounds.first_e, bounds.value_dim, ends.stride_e, 0, bounds.key_dim, ends.stride_d)
    row = extent.first_row + gl.arange(0, ROWS, gl.SliceLayout(1, broad))
    col = extent.first_col + gl.arange(0, COLS, gl.SliceLayout(0, broad))
    state = gl.zeros([ROWS, COLS], gl.float32, broad)
    if ends.initial_ptr is not None:
        tile = row[:, None] * extent.row_step + col[None, :] * extent.col_step
        inside = (row[:, None] < extent.row_end) & (col[None, :] < extent.col_end) & ends.has_initial
        if TILES.ahead:
            inside = inside & (exchange.lasting == 0)
        state = gl.load(ends.initial_ptr + tile, mask=inside, other=0.0).to(gl.float32)

    _fill_weights(weights_s, slope, decay, walk, TILES.group)
    if TILES.ahead:
        of_group = _decay_of(decay.slope_ptr, steps, TILES.group * BLOCK)
        state = _walk_ahead(ring, left_s, right_s, weights_s, walk, state, of_group, values, TILES.group)
        if exchange.lasting:
            passing, _ = _decay_of(decay.slope_ptr, steps, exchange.chunk * BLOCK)
            state = exchanged(exchange, state, passing, ends.initial_ptr, ends.has_initial, extent, broad)
    if TILES.pairs:
        state = _walk_pairs(
            ring, states, left_s, right_s, weights_s, walk, state, decays, last_decay, values, TILES
        )
    else:
        state = _walk_blocks(
            ring, states, left_s, right_s, weights_s, walk, state, decays, last_decay, values, TILES
        )

    if ends.final_ptr is not None:
        # Addresses that are known before the loop would be kept through it, for which there are no registers.
        late = gl.minimum(walk.last - walk.first, 0)  # 0
        tile = (row + late)[:, None] * extent.row_step + (col + late)[None, :] * extent.col_step
        inside = ((row + late)[:, None] < extent.row_end) & ((col + late)[None, :] < extent.col_end)
        left = state.to(ends.final_ptr.dtype.element_ty)  # a pool may be in bf16
        gl.store(ends.final_ptr + tile, left, mask=inside & ends.has_final)
