"""The state's warps: they hold the state KVᵀ of one program in fp32 registers and carry it from block to block.

    KVᵀ ← λ^B KVᵀ + (Vᵀ ∘ λ^(B−j)) K

for a block of B tokens, j their steps. This is the one chain of dependent products of the whole pass, so these
warps do nothing else. Before each block whose rows are computed they leave a rounded copy of the state in a
ring in shared memory, from which the output's warps multiply.
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

from lightning_kernels._gluon.loader import BLOCK


@gluon.jit
def exp2(x):  # type: ignore[no-untyped-def]
    """2^x; results below the normal numbers become zero."""
    return gl.inline_asm_elementwise(
        "ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=gl.float32, is_pure=True, pack=1
    )


@gluon.jit
def _weigh(v, high, low):  # type: ignore[no-untyped-def]
    """Multiply v [COLUMNS, BLOCK] by weights high + low [BLOCK] with one rounding, two elements at a time.

    Not declared pure, so that the compiler leaves it where it stands: in the shadow of a product.
    """
    high, v = gl.broadcast(gl.expand_dims(high, 0), v)
    low, v = gl.broadcast(gl.expand_dims(low, 0), v)
    kind: gl.constexpr = "bf16x2" if v.dtype == gl.bfloat16 else "f16x2"
    return gl.inline_asm_elementwise(
        "{.reg .b32 rest; mul.rn." + kind + " rest, $1, $3; fma.rn." + kind + " $0, $1, $2, rest;}",
        "=r,r,r,r", [v, high, low], dtype=v.dtype, is_pure=False, pack=2,
    )  # fmt: skip


@gluon.jit
def _read(v_s, fade_s, size, values: gl.constexpr):  # type: ignore[no-untyped-def]
    """Read Vᵀ and the weights λ^(B−j) of a block of `size` tokens, fewer than B in the last one alone."""
    tokens: gl.constexpr = gl.SliceLayout(0, values)
    which = gl.where(size < BLOCK, 2, 0)
    return v_s.permute((1, 0)).load(values), fade_s.index(which).load(tokens), fade_s.index(which + 1).load(tokens)


@gluon.jit  # type: ignore[untyped-decorator]
def carry_state(  # type: ignore[no-untyped-def]
    k_s, v_s, state_s, fade_s, full, empty, ready, taken, initial_ptr, final_ptr,
    state_stride_d, state_stride_e, has_initial, has_final, slope,
    first, main, last, steps, key_dim, value_dim, first_e,
    BLOCK_D: gl.constexpr, COLUMNS: gl.constexpr, STAGES: gl.constexpr, COPIES: gl.constexpr,
    EARLY: gl.constexpr,
):  # fmt: skip
    """Walk blocks first…last−1 and leave a copy of the state before each from `main` on.

    slope is s·log₂e; fade_s holds the weights with which tokens are written, high and low half, for a whole
    block and for the last one. EARLY reads the next block's v before the state is written and multiplied
    rather than during the product, which leaves other readers little of shared memory: faster where the
    product is long and the ring deep enough.
    """
    dtype: gl.constexpr = k_s.dtype
    broad: gl.constexpr = gl.NVMMADistributedLayout(
        [3, 0], [4, 1], [16, 128 if BLOCK_D == 256 else BLOCK_D, 16]
    )
    values: gl.constexpr = gl.DotOperandLayout(0, broad, 2)

    block_decay = exp2(-slope * BLOCK)
    last_decay = exp2(-slope * ((steps - 1) % BLOCK + 1).to(gl.float32))
    state_e = first_e + gl.arange(0, COLUMNS, gl.SliceLayout(1, broad))
    state_d = gl.arange(0, BLOCK_D, gl.SliceLayout(0, broad))
    if initial_ptr is not None:
        state_tile = state_e[:, None] * state_stride_e + state_d[None, :] * state_stride_d
        state_ok = (state_e[:, None] < value_dim) & (state_d[None, :] < key_dim)
        state = gl.load(initial_ptr + state_tile, mask=state_ok & has_initial, other=0.0)
    else:
        state = gl.zeros([COLUMNS, BLOCK_D], gl.float32, broad)

    mbarrier.wait(full.index(0), 0, pred=first < last)
    size = gl.minimum(steps - first * BLOCK, BLOCK)
    v, high, low = _read(v_s.index(0), fade_s, size, values)
    weighted = _weigh(v, high, low)
    for block in range(first, last):
        stage = (block - first) % STAGES
        turn = block + 1 - first
        size = gl.minimum(steps - (block + 1) * BLOCK, BLOCK)
        # After the last block: whatever is there, and it is not used.
        if EARLY:
            mbarrier.wait(full.index(turn % STAGES), (turn // STAGES) & 1, pred=block + 1 < last)
            v, high, low = _read(v_s.index(turn % STAGES), fade_s, size, values)
        if block >= main:
            copy = (block - main) % COPIES
            mbarrier.wait(taken.index(copy), (((block - main) // COPIES) & 1) ^ 1)
            state_s.index(copy).store(state.to(dtype))
        fence_async_shared()  # for what the loader wrote, too, on the way to both readers
        if block >= main:
            mbarrier.arrive(ready.index((block - main) % COPIES), count=1)
        decay = gl.where(size <= 0, last_decay, block_decay)
        state = warpgroup_mma(weighted, k_s.index(stage), state * decay, is_async=True)
        if not EARLY:
            mbarrier.wait(full.index(turn % STAGES), (turn // STAGES) & 1, pred=block + 1 < last)
            v, high, low = _read(v_s.index(turn % STAGES), fade_s, size, values)
        weighted = _weigh(v, high, low)
        state = warpgroup_mma_wait(0, deps=[state])
        # By every thread for itself, which costs no barrier among them.
        async_copy.mbarrier_arrive(empty.index(stage), increment_count=False)
        if block < main:  # for the output's warps, which have nothing to do with it
            async_copy.mbarrier_arrive(empty.index(stage), increment_count=False)

    if final_ptr is not None:
        # Addresses that are known before the loop would be kept through it, in registers that are not there.
        late = gl.minimum(last - first, 0)  # 0
        state_tile = (state_e + late)[:, None] * state_stride_e + (state_d + late)[None, :] * state_stride_d
        state_ok = ((state_e + late)[:, None] < value_dim) & ((state_d + late)[None, :] < key_dim)
        gl.store(final_ptr + state_tile, state, mask=state_ok & has_final)
