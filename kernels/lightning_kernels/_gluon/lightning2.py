"""Lightning Attention-2 on Hopper: the same pass as the portable kernel, with warps of their own for loads.

One program has a loader (4 warps) and one or two consumers (4 warps each). The loader copies blocks of
64 tokens of q, k and v into a ring of shared memory by cp.async; a consumer owns 64 columns of v and holds
their state KVᵀ [64, head_dim] in fp32 registers. Loader and consumers meet at two mbarriers a stage.

All is in steps: step t is the t-th token that is visited, from the first on or, in reverse, from the last on.
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

_barrier = gl.barrier if hasattr(gl, "barrier") else gl.thread_barrier



@gluon.jit
def _exp2(x):
    """2^x; results below the normal numbers become zero."""
    return gl.inline_asm_elementwise(
        "ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=gl.float32, is_pure=True, pack=1
    )


BLOCK = gl.constexpr(64)
COLUMNS = gl.constexpr(64)


@gluon.jit
def _weigh(v, high, low):
    """Multiply v [COLUMNS, BLOCK] by weights high + low [BLOCK] with one rounding, two elements at a time."""
    high = gl.expand_dims(high, 0)
    low = gl.expand_dims(low, 0)
    high, v = gl.broadcast(high, v)
    low, v = gl.broadcast(low, v)
    if v.dtype == gl.bfloat16:
        return gl.inline_asm_elementwise(
            "{.reg .b32 rest; mul.rn.bf16x2 rest, $1, $3; fma.rn.bf16x2 $0, $1, $2, rest;}",
            "=r,r,r,r", [v, high, low], dtype=gl.bfloat16, is_pure=True, pack=2,
        )  # fmt: skip
    else:
        return gl.inline_asm_elementwise(
            "{.reg .b32 rest; mul.rn.f16x2 rest, $1, $3; fma.rn.f16x2 $0, $1, $2, rest;}",
            "=r,r,r,r", [v, high, low], dtype=gl.float16, is_pure=True, pack=2,
        )  # fmt: skip


@gluon.jit
def _copy_tile(smem, ptr, row, offset, col, rows_left, dim, FULL: gl.constexpr):
    """Start the copy of one tile of BLOCK tokens; rows and columns that are outside become zeros."""
    inside = row[:, None] < rows_left
    if not FULL:
        inside = inside & (col[None, :] < dim)
    async_copy.async_copy_global_to_shared(smem, ptr + (offset[:, None] + col[None, :]), mask=inside)


@gluon.jit
def _load(
    q_s, k_s, v_s, full, empty, q_ptr, k_ptr, v_ptr, q_step, k_step, v_step,
    first, main, last, steps, key_dim, value_dim, first_e,
    BLOCK_D: gl.constexpr, CONSUMERS: gl.constexpr, STAGES: gl.constexpr, FULL_D: gl.constexpr,
    FULL_E: gl.constexpr,
):  # fmt: skip
    """Copy blocks first…last−1 into the ring, those before `main` without q, and write the rows of o.

    A consumer leaves a block's rows of o where its v was. It must not write them to global memory itself: the
    fence that its next product needs would wait until they have arrived there.
    """
    threads: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [4, 1], [1, 0])
    row = gl.arange(0, BLOCK, gl.SliceLayout(1, threads))
    col = gl.arange(0, BLOCK_D, gl.SliceLayout(0, threads))
    col_v = gl.arange(0, COLUMNS, gl.SliceLayout(0, threads))
    q_row = row * q_step
    k_row = row * k_step
    v_row = row * v_step
    q_block = q_step * BLOCK
    k_block = k_step * BLOCK
    v_block = v_step * BLOCK
    q_ptr += first.to(gl.int64) * q_block
    k_ptr += first.to(gl.int64) * k_block
    v_ptr += first.to(gl.int64) * v_block + first_e
    left = steps - first * BLOCK
    count = last - first
    for turn in range(count):
        stage = turn % STAGES
        mbarrier.wait(empty.index(stage), ((turn // STAGES) & 1) ^ 1)
        if turn >= main - first:
            _copy_tile(q_s.index(stage), q_ptr, row, q_row, col, left, key_dim, FULL_D)
        _copy_tile(k_s.index(stage), k_ptr, row, k_row, col, left, key_dim, FULL_D)
        for i in gl.static_range(CONSUMERS):
            _copy_tile(
                v_s.index(stage * CONSUMERS + i), v_ptr + i * COLUMNS, row, v_row, col_v, left,
                value_dim - first_e - i * COLUMNS, FULL_E,
            )  # fmt: skip
        async_copy.mbarrier_arrive(full.index(stage), increment_count=False)
        q_ptr += q_block
        k_ptr += k_block
        v_ptr += v_block
        left -= BLOCK


@gluon.jit
def _consume(
    q_s, k_s, v_s, state_s, weight_s, fade_s, full, empty, out_ptr, out_step, initial_ptr, final_ptr,
    state_stride_d, state_stride_e, has_initial, has_final, slope, scale_read, scale_write, offset,
    first, main, last, steps, key_dim, value_dim, first_e,
    BLOCK_D: gl.constexpr, CONSUMERS: gl.constexpr, STAGES: gl.constexpr, FULL_D: gl.constexpr,
    FULL_E: gl.constexpr, MINE: gl.constexpr,
):  # fmt: skip
    """Walk the blocks with the state of COLUMNS columns; write the rows of blocks main…last−1.

    slope is s·log₂e; a token's weight when it is read is scale_read·λ^(i+offset), when it is written
    scale_write·λ^(B−j−offset).
    """
    dtype: gl.constexpr = q_s.dtype
    square: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 64, 16])
    broad: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_D, 16])
    scores: gl.constexpr = gl.DotOperandLayout(0, square, 2)
    values: gl.constexpr = gl.DotOperandLayout(0, broad, 2)

    # As the products leave it, but for an exchange among the four threads of a row: 16 columns a thread.
    rows: gl.constexpr = gl.DistributedLinearLayout(
        reg_bases=[[0, 1], [0, 2], [0, 4], [0, 8], [8, 0]],
        lane_bases=[[0, 16], [0, 32], [1, 0], [2, 0], [4, 0]],
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
    read = _exp2(-slope * (i + offset).to(gl.float32)) * scale_read
    tokens: gl.constexpr = gl.SliceLayout(0, values)
    block_decay = _exp2(-slope * BLOCK)
    rest_decay = _exp2(-slope * ((steps - 1) % BLOCK + 1).to(gl.float32))

    state_e = first_e + MINE * COLUMNS + gl.arange(0, COLUMNS, gl.SliceLayout(1, broad))
    state_d = gl.arange(0, BLOCK_D, gl.SliceLayout(0, broad))
    state_tile = state_e[:, None] * state_stride_e + state_d[None, :] * state_stride_d
    state_ok = (state_e[:, None] < value_dim) & (state_d[None, :] < key_dim)
    if initial_ptr is not None:
        state = gl.load(initial_ptr + state_tile, mask=state_ok & has_initial, other=0.0)
    else:
        state = gl.zeros([COLUMNS, BLOCK_D], gl.float32, broad)

    for block in range(first, main):  # the state alone
        turn = block - first
        stage = turn % STAGES
        mbarrier.wait(full.index(stage), (turn // STAGES) & 1)
        fence_async_shared()
        v_t = v_s.index(stage * CONSUMERS + MINE).permute((1, 0))
        weighted = _weigh(v_t.load(values), fade_s.index(0).load(tokens), fade_s.index(1).load(tokens))
        state = warpgroup_mma(weighted, k_s.index(stage), state * block_decay, is_async=True)
        state = warpgroup_mma_wait(0, deps=[state])
        async_copy.mbarrier_arrive(empty.index(stage), increment_count=False)

    zero = gl.zeros([BLOCK, BLOCK], gl.float32, square)
    turn = main - first
    stage = turn % STAGES
    size = gl.minimum(steps - main * BLOCK, BLOCK)
    state_s.store(state.to(dtype))
    mbarrier.wait(full.index(stage), (turn // STAGES) & 1, pred=main < last)
    fence_async_shared()
    _barrier()
    decay = gl.where(size < BLOCK, rest_decay, block_decay)
    which = gl.where(size < BLOCK, 2, 0)
    high = fade_s.index(which).load(tokens)
    low = fade_s.index(which + 1).load(tokens)
    p = warpgroup_mma(q_s.index(stage), k_s.index(stage).permute((1, 0)), zero, use_acc=False, is_async=True)
    o = warpgroup_mma(q_s.index(stage), state_s.permute((1, 0)), zero, use_acc=False, is_async=True)
    v = v_s.index(stage * CONSUMERS + MINE)
    weighted = _weigh(v.permute((1, 0)).load(values), high, low)
    p = warpgroup_mma_wait(1, deps=[p])  # [i, j]
    scored = gl.convert_layout((p * weight_s.load(square)).to(dtype), scores)
    o = warpgroup_mma_wait(0, deps=[o]) * read[:, None]  # [i, COLUMNS]
    for block in range(main, last):
        o = warpgroup_mma(scored, v_s.index(stage * CONSUMERS + MINE), o, is_async=True)
        state = warpgroup_mma(weighted, k_s.index(stage), state * decay, is_async=True)
        o = warpgroup_mma_wait(1, deps=[o])
        ready = gl.convert_layout(o.to(dtype), rows)
        inside = row[:, None] < size
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
        q = q_s.index(stage)
        p = warpgroup_mma(q, k_s.index(stage).permute((1, 0)), zero, use_acc=False, is_async=True)
        o = warpgroup_mma(q, state_s.permute((1, 0)), zero, use_acc=False, is_async=True)
        gl.store(out_ptr + (out_row[:, None] + col[None, :]), ready, mask=inside)
        out_ptr += out_block
        v = v_s.index(stage * CONSUMERS + MINE)
        weighted = _weigh(v.permute((1, 0)).load(values), high, low)
        p = warpgroup_mma_wait(1, deps=[p])
        scored = gl.convert_layout((p * weight_s.load(square)).to(dtype), scores)
        o = warpgroup_mma_wait(0, deps=[o]) * read[:, None]

    if final_ptr is not None:
        gl.store(final_ptr + state_tile, state, mask=state_ok & has_final)


@gluon.jit
def _walk(
    a_ptr, b_ptr, c_ptr, out_ptr, a_step, b_step, c_step, out_step, initial_ptr, final_ptr,
    state_stride_d, state_stride_e, has_initial, has_final, slope, scale_read, scale_write, offset,
    first, main, last, steps, key_dim, value_dim, first_e,
    BLOCK_D: gl.constexpr, CONSUMERS: gl.constexpr, STAGES: gl.constexpr, FULL_D: gl.constexpr,
    FULL_E: gl.constexpr, LOADER_REGISTERS: gl.constexpr, CONSUMER_REGISTERS: gl.constexpr,
):  # fmt: skip
    """Run loader and consumers over one segment of one sequence; a, b, c stand for q, k, v."""
    dtype: gl.constexpr = a_ptr.dtype.element_ty
    tile: gl.constexpr = gl.NVMMASharedLayout.get_default_for([BLOCK, BLOCK_D], dtype)
    slim: gl.constexpr = gl.NVMMASharedLayout.get_default_for([BLOCK, COLUMNS], dtype)
    q_s = gl.allocate_shared_memory(dtype, [STAGES, BLOCK, BLOCK_D], tile)
    k_s = gl.allocate_shared_memory(dtype, [STAGES, BLOCK, BLOCK_D], tile)
    v_s = gl.allocate_shared_memory(dtype, [STAGES * CONSUMERS, BLOCK, COLUMNS], slim)
    state_s = gl.allocate_shared_memory(dtype, [CONSUMERS, COLUMNS, BLOCK_D], tile)
    # Four neighbours in a thread's registers lie side by side, then the 32 threads of a warp.
    weight_s = gl.allocate_shared_memory(gl.float32, [BLOCK, BLOCK], gl.SharedLinearLayout([
        [0, 1], [0, 8], [0, 2], [0, 4], [1, 0], [2, 0], [4, 0], [0, 16], [0, 32], [8, 0], [16, 0], [32, 0],
    ]))  # fmt: skip
    square: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 64, 16])
    i = gl.arange(0, BLOCK, gl.SliceLayout(1, square))
    j = gl.arange(0, BLOCK, gl.SliceLayout(0, square))
    distance = (j[None, :] - i[:, None]).to(gl.float32)
    weight = _exp2(gl.minimum(slope * distance, 0.0)) * (scale_read * scale_write)
    weight = gl.where(j[None, :] <= i[:, None], weight, 0.0)
    weight_s.store(weight)
    # How a token's weight fades until its block ends, high and low half: in a whole block, in the last one.
    near: gl.constexpr = gl.SharedLinearLayout([[1], [8], [16], [32], [2], [4]])
    fade_s = gl.allocate_shared_memory(dtype, [4, BLOCK], near)
    size = (steps - 1) % BLOCK + 1
    fade = _exp2(-slope * (BLOCK - j - offset).to(gl.float32)) * scale_write
    fade_s.index(0).store(fade.to(dtype))
    fade_s.index(1).store((fade - fade.to(dtype).to(gl.float32)).to(dtype))
    fade = _exp2(gl.minimum(slope * (j + offset - size).to(gl.float32), 0.0)) * scale_write
    fade_s.index(2).store(fade.to(dtype))
    fade_s.index(3).store((fade - fade.to(dtype).to(gl.float32)).to(dtype))
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(full.index(stage), count=128)
        mbarrier.init(empty.index(stage), count=128 * CONSUMERS)
    fence_async_shared()
    _barrier()
    if CONSUMERS == 1:
        gl.warp_specialize(
            [
                (_consume, (
                    q_s, k_s, v_s, state_s.index(0), weight_s, fade_s, full, empty, out_ptr, out_step, initial_ptr, final_ptr,
                    state_stride_d, state_stride_e, has_initial, has_final, slope, scale_read, scale_write, offset, first, main,
                    last, steps, key_dim, value_dim, first_e, BLOCK_D, CONSUMERS, STAGES, FULL_D, FULL_E, 0,
                )),
                (_load, (
                    q_s, k_s, v_s, full, empty, a_ptr, b_ptr, c_ptr, a_step, b_step, c_step, first, main,
                    last, steps, key_dim, value_dim, first_e, BLOCK_D, CONSUMERS, STAGES, FULL_D, FULL_E,
                )),
            ],
            [4], [LOADER_REGISTERS],
        )  # fmt: skip
    else:
        gl.warp_specialize(
            [
                (_consume, (
                    q_s, k_s, v_s, state_s.index(0), weight_s, fade_s, full, empty, out_ptr, out_step, initial_ptr, final_ptr,
                    state_stride_d, state_stride_e, has_initial, has_final, slope, scale_read, scale_write, offset, first, main,
                    last, steps, key_dim, value_dim, first_e, BLOCK_D, CONSUMERS, STAGES, FULL_D, FULL_E, 0,
                )),
                (_consume, (
                    q_s, k_s, v_s, state_s.index(1), weight_s, fade_s, full, empty, out_ptr, out_step, initial_ptr, final_ptr,
                    state_stride_d, state_stride_e, has_initial, has_final, slope, scale_read, scale_write, offset, first, main,
                    last, steps, key_dim, value_dim, first_e, BLOCK_D, CONSUMERS, STAGES, FULL_D, FULL_E, 1,
                )),
                (_load, (
                    q_s, k_s, v_s, full, empty, a_ptr, b_ptr, c_ptr, a_step, b_step, c_step, first, main,
                    last, steps, key_dim, value_dim, first_e, BLOCK_D, CONSUMERS, STAGES, FULL_D, FULL_E,
                )),
            ],
            [4, 4], [CONSUMER_REGISTERS, LOADER_REGISTERS],
        )  # fmt: skip


@gluon.jit(do_not_specialize=["heads", "seq_len", "segments", "group"])
def linear_attention_kernel(
    q_ptr, k_ptr, v_ptr, g_ptr, out_ptr, dk_ptr, dv_ptr, slope_ptr, offset_ptr, initial_ptr,
    grad_state_ptr, final_ptr,
    heads, group, seq_len, segments, scale,
    q_stride_b, q_stride_h, q_stride_n, k_stride_b, k_stride_h, k_stride_n,
    v_stride_b, v_stride_h, v_stride_n, g_stride_b, g_stride_h, g_stride_n,
    out_stride_b, out_stride_h, out_stride_n, dk_stride_b, dk_stride_h, dk_stride_n,
    dv_stride_b, dv_stride_h, dv_stride_n,
    D: gl.constexpr, E: gl.constexpr, BLOCK_D: gl.constexpr, TILES_E: gl.constexpr, CONSUMERS: gl.constexpr,
    STAGES: gl.constexpr, BACKWARD: gl.constexpr, LOADER_REGISTERS: gl.constexpr,
    CONSUMER_REGISTERS: gl.constexpr, num_warps: gl.constexpr,
):  # fmt: skip
    roles: gl.constexpr = 3 if BACKWARD else 1
    # True, which the compiler cannot know. What a partition could compute again from the kernel's arguments
    # it would: at the kernel's entry, where all the partitions' values meet and are spilled.
    secret = gl.allocate_shared_memory(gl.int32, [1], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    threads: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    secret.store(gl.full([1], 1, gl.int32, threads))
    _barrier()
    known = gl.max(secret.load(threads), 0) == 1
    pid = gl.program_id(0)
    role = pid % roles
    pid = pid // roles
    first_e = (pid % TILES_E) * (CONSUMERS * COLUMNS)
    pid = pid // TILES_E
    segment = pid % segments
    pid = pid // segments
    head = pid % heads
    sequence = pid // heads
    if offset_ptr is None:
        begin = sequence * 0
        steps = gl.where(known, seq_len, 0)
        batch = sequence.to(gl.int64)
    else:
        begin = gl.load(offset_ptr + sequence)
        steps = gl.load(offset_ptr + sequence + 1) - begin
        batch = (sequence * 0).to(gl.int64)
    kv_head = (head // group).to(gl.int64)
    head64 = head.to(gl.int64)
    q = q_ptr + batch * q_stride_b + head64 * q_stride_h
    k = k_ptr + batch * k_stride_b + kv_head * k_stride_h
    v = v_ptr + batch * v_stride_b + kv_head * v_stride_h
    out = out_ptr + batch * out_stride_b + head64 * out_stride_h

    slope = 0.0
    if slope_ptr is not None:
        slope = gl.load(slope_ptr + head).to(gl.float32)
    blocks = gl.cdiv(steps, BLOCK)
    warm = gl.minimum(20.8 / gl.maximum(slope, 1e-12) / BLOCK + 1.0, blocks.to(gl.float32)).to(gl.int32)
    share = gl.cdiv(2 * blocks + (segments - 1) * warm, 2 * segments)
    rest = gl.maximum(share - warm // 2, 0)
    main = gl.where(segment == 0, 0, gl.minimum(share + (segment - 1) * rest, blocks))
    last = gl.where(segment == segments - 1, blocks, gl.minimum(share + segment * rest, blocks))
    first = gl.maximum(main - warm, 0)
    slope = slope * 1.4426950408889634

    state_at = (sequence.to(gl.int64) * heads + head) * (D * E)
    final = final_ptr
    if final_ptr is not None:
        final += state_at
    if BACKWARD:
        g = g_ptr + batch * g_stride_b + head64 * g_stride_h
        dk = dk_ptr + batch * dk_stride_b + head64 * dk_stride_h
        dv = dv_ptr + batch * dv_stride_b + head64 * dv_stride_h
        is_dv = role == 1
        is_dq = role == 2
        a = gl.where(is_dq, g, gl.where(is_dv, k, v))
        b = gl.where(is_dq, v, gl.where(is_dv, q, g))
        c = gl.where(is_dq, k, gl.where(is_dv, g, q))
        out = gl.where(is_dq, out, gl.where(is_dv, dv, dk))
        a_step = gl.where(is_dq, g_stride_n, gl.where(is_dv, k_stride_n, v_stride_n))
        b_step = gl.where(is_dq, v_stride_n, gl.where(is_dv, q_stride_n, g_stride_n))
        c_step = gl.where(is_dq, k_stride_n, gl.where(is_dv, g_stride_n, q_stride_n))
        out_step = gl.where(is_dq, out_stride_n, gl.where(is_dv, dv_stride_n, dk_stride_n))
        start = (begin + gl.where(is_dq, 0, steps - 1)).to(gl.int64)
        a += start * a_step
        b += start * b_step
        c += start * c_step
        out += start * out_step
        sign = gl.where(is_dq, 1, -1)
        has_initial = first == 0
        if initial_ptr is not None:
            if grad_state_ptr is not None:
                initial = gl.where(is_dq, initial_ptr, grad_state_ptr) + state_at
            else:
                initial = initial_ptr + state_at
                has_initial = has_initial & is_dq
        else:
            initial = grad_state_ptr
            if grad_state_ptr is not None:
                initial += state_at
                has_initial = has_initial & (role != 2)
        _walk(
            a, b, c, out, a_step * sign, b_step * sign, c_step * sign, out_step * sign, initial, final,
            gl.where(is_dv, E, 1), gl.where(is_dv, 1, E), has_initial, is_dv & (segment == segments - 1),
            slope, gl.where(is_dq, scale, 1.0), gl.where(is_dq, 1.0, scale), gl.where(is_dq, 1, 0),
            first, main, last, steps, gl.where(is_dv, D, E), gl.where(is_dv, E, D), first_e,
            BLOCK_D, CONSUMERS, STAGES, D == E and D == BLOCK_D, D == E and E == TILES_E * CONSUMERS * COLUMNS,
            LOADER_REGISTERS, CONSUMER_REGISTERS,
        )  # fmt: skip
    else:
        q_step = gl.where(known, q_stride_n, 16)
        k_step = gl.where(known, k_stride_n, 16)
        v_step = gl.where(known, v_stride_n, 16)
        out_step = gl.where(known, out_stride_n, 16)
        start = begin.to(gl.int64)
        initial = initial_ptr
        if initial_ptr is not None:
            initial += state_at
        _walk(
            gl.where(known, q + start * q_step, k), gl.where(known, k + start * k_step, q),
            gl.where(known, v + start * v_step, q), gl.where(known, out + start * out_step, q),
            q_step, k_step, v_step, out_step, initial, final, E, 1, first == 0, segment == segments - 1,
            slope, gl.where(known, scale, 0.0), 1.0, gl.where(known, 1, 0), first, main, last, steps, D, E, first_e,
            BLOCK_D, CONSUMERS, STAGES, D == BLOCK_D, E == TILES_E * CONSUMERS * COLUMNS,
            LOADER_REGISTERS, CONSUMER_REGISTERS,
        )  # fmt: skip
