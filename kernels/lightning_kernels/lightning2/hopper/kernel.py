"""Lightning Attention-2 on Hopper: the pass of the portable kernel, with warps of their own for each part.

One program walks one segment of one sequence for one head and up to 128 columns of v, in blocks of 64 tokens.
A loader brings them into a ring in shared memory, the state's four warps, or eight, carry the state from
block to block, and the output's four warps follow with the rows of o. They meet at the mbarriers of `rings`.
Backward is the same walk in three roles, dk, dv and dq, at once: neighbouring programs take the roles of one
head, so that dk and dv read the same tiles at about the same time.

Few heads and a long sequence: each is cut into segments. The state that enters a segment needs only the last
T = ⌈WINDOW / s⌉ tokens before it (see `cuts.WINDOW`), and the segment's own program walks over these first,
without computing rows of o. Segments are so long that all take about the same time. Where a head decays so
little that this would take too long, segments exchange their states instead (see `exchange`).
"""

import triton.experimental.gluon.language as gl
from triton.experimental import gluon
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier

from ..cuts import EXCHANGE, SEGMENT_ALIGNED, WINDOW
from .exchange import Exchange
from .loader import LOADER_WARPS, load
from .output import clear_rows, write_output
from .rings import (
    BLOCK,
    Bounds,
    Boxes,
    Decay,
    Ends,
    Ring,
    Rows,
    States,
    Walk,
    barrier,
)
from .state import carry_state
from .wide import write_wide_output

_ALIGNED = gl.constexpr(SEGMENT_ALIGNED)
_WINDOW = gl.constexpr(WINDOW)
_EXCHANGED = gl.constexpr(EXCHANGE)


@gluon.jit
def _find(offset_ptr, sequences, place, chunk):  # type: ignore[no-untyped-def]
    """Return the packed sequence of a place, which of its segments it is, and the place of its second one.

    See `cuts.packed_segments`.
    """
    sequence = place
    if place >= sequences:
        sequence = place * 0
        high = sequences
        while high - sequence > 1:
            middle = (sequence + high) // 2
            if gl.load(offset_ptr + middle) // (BLOCK * chunk) <= place - sequences:
                sequence = middle
            else:
                high = middle
    second = sequences + gl.load(offset_ptr + sequence) // (BLOCK * chunk)
    return sequence, gl.where(place < sequences, 0, place - second + 1), second


@gluon.jit
def _start(segment, share, rest, most):  # type: ignore[no-untyped-def]
    """Return the first block whose rows a segment but the first computes: a multiple of _ALIGNED."""
    return gl.minimum(share + (segment - 1) * rest, most) // _ALIGNED * _ALIGNED


@gluon.jit
def _segment(slope_ptr, blocks, segment, segments, chunk, most):  # type: ignore[no-untyped-def]
    """Return how a segment walks, and the blocks that count before it where states are exchanged, else 0.

    A walk is the number of blocks to walk over, the first whose rows are computed, the end, and how much
    later the blocks that are walked over lie.
    """
    slope = 0.0
    if slope_ptr is not None:
        slope = gl.load(slope_ptr).to(gl.float32)
    warm = gl.minimum(_WINDOW / gl.maximum(slope, 1e-12) / BLOCK + 1.0, blocks.to(gl.float32)).to(gl.int32)
    warm = gl.cdiv(warm, _ALIGNED) * _ALIGNED
    # A block that is walked over reads half as much and takes about half the time of one that is computed.
    share = gl.cdiv(2 * blocks + (segments - 1) * warm, 2 * segments)
    rest = gl.maximum(share - warm // 2, 0)
    # The last block, which may be a ragged one, is always computed by the last segment.
    end = gl.maximum(blocks - 1, 0)
    main = gl.where(segment == 0, 0, _start(segment, share, rest, end))
    last = gl.where(segment == segments - 1, blocks, _start(segment + 1, share, rest, end))
    ahead = gl.where(main < last, gl.minimum(main, warm), 0)
    lasting = (share > chunk + chunk // 2 + _EXCHANGED) & (segments > 1)
    none = segment >= segments  # a place without a segment
    if lasting:
        main = gl.minimum(segment * chunk, blocks)
        last = gl.minimum(main + chunk, blocks)
        ahead = gl.where(last < blocks, chunk, 0)
        if blocks <= most:
            main, last, ahead = segment * 0, blocks, segment * 0
            none = segment > 0
            lasting = segment < 0
    main = gl.where(none, blocks, main)
    last = gl.where(none, blocks, last)
    ahead = gl.where(none, 0, ahead)
    lasting = lasting & (main < last)
    return ahead, main, last, gl.where(lasting, ahead, 0), gl.where(lasting, warm, 0)


@gluon.jit  # type: ignore[untyped-decorator]
def _write(ring, states, rows, decay, walk, bounds, TILES: gl.constexpr):  # type: ignore[no-untyped-def]
    if TILES.wide:
        write_wide_output(ring, states, rows, decay, walk, bounds, TILES)
    else:
        write_output(ring, states, rows, decay, walk, bounds, TILES)


@gluon.jit  # type: ignore[untyped-decorator]
def _run(boxes, rows, ends, exchange, decay, walk, bounds, TILES: gl.constexpr):  # type: ignore[no-untyped-def]
    """Run loader, state and output over one segment."""
    BLOCK_D: gl.constexpr = TILES.block_d
    COLUMNS: gl.constexpr = TILES.columns
    GROUP: gl.constexpr = TILES.group
    STAGES: gl.constexpr = TILES.stages
    COPIES: gl.constexpr = TILES.copies
    TOGETHER: gl.constexpr = 2 if TILES.pairs else 1
    dtype: gl.constexpr = rows.q_ptr.dtype.element_ty
    wide: gl.constexpr = gl.NVMMASharedLayout.get_default_for([BLOCK, BLOCK_D], dtype)
    slim: gl.constexpr = gl.NVMMASharedLayout.get_default_for([BLOCK, COLUMNS], dtype)
    q_s = gl.allocate_shared_memory(dtype, [STAGES, BLOCK, BLOCK_D], wide)
    k_s = gl.allocate_shared_memory(dtype, [STAGES, BLOCK, BLOCK_D], wide)
    v_s = gl.allocate_shared_memory(dtype, [STAGES, BLOCK, COLUMNS], slim)
    if COLUMNS < 64:
        tile: gl.constexpr = gl.NVMMASharedLayout.get_default_for([BLOCK_D, COLUMNS], dtype)
        state_s = gl.allocate_shared_memory(dtype, [COPIES, BLOCK_D, COLUMNS], tile)
    else:
        state_s = gl.allocate_shared_memory(dtype, [COPIES, COLUMNS, BLOCK_D], wide)
    near: gl.constexpr = gl.SharedLinearLayout([[1], [8], [16], [32], [2], [4]])
    weights_s = gl.allocate_shared_memory(dtype, [2 + 2 * GROUP, BLOCK], near)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    ready = gl.allocate_shared_memory(gl.int64, [COPIES // TOGETHER, 1], mbarrier.MBarrierLayout())
    taken = gl.allocate_shared_memory(gl.int64, [COPIES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(full.index(stage), count=1 if TILES.boxes else 32 * LOADER_WARPS)
        mbarrier.init(empty.index(stage), count=32 * gl.num_warps() + 128)
    for copy in gl.static_range(COPIES):
        mbarrier.init(taken.index(copy), count=128)
    for copy in gl.static_range(COPIES // TOGETHER):
        mbarrier.init(ready.index(copy), count=1)
    fence_async_shared()
    barrier()
    ring = Ring(q_s, k_s, v_s, full, empty, STAGES)
    states = States(state_s, ready, taken, COPIES, TOGETHER)
    gl.warp_specialize([
        (carry_state, (ring, states, weights_s, ends, exchange, decay, walk, bounds, TILES)),
        (_write, (ring, states, rows, decay, walk, bounds, TILES)),
        (load, (ring, boxes, rows, walk, bounds, TILES)),
    ], [4, LOADER_WARPS], [TILES.output_registers, TILES.loader_registers])  # fmt: skip


@gluon.jit(  # type: ignore[untyped-decorator]
    do_not_specialize=[
        "heads",
        "group",
        "seq_len",
        "sequences",
        "segments",
        "chunk",
        "whole",
        "most",
        "pool_stride",
        "scale",
    ],
    # Read one element at a time, and parts of longer vectors may begin anywhere.
    do_not_specialize_on_alignment=["slope_ptr", "offset_ptr", "slot_ptr", "leaving_ptr", "begun_ptr"],
)
def linear_attention_kernel(  # type: ignore[no-untyped-def]
    q_ptr, k_ptr, v_ptr, g_ptr, out_ptr, dk_ptr, dv_ptr, q_box, k_box, v_box,
    g_box, part_q_box, part_k_box, part_g_box,
    slope_ptr, offset_ptr, initial_ptr, grad_state_ptr, final_ptr, sums_ptr, flags_ptr,
    slot_ptr, leaving_ptr, begun_ptr,
    heads, group, seq_len, sequences, segments, chunk, whole, most, pool_stride, scale,
    q_stride_b, q_stride_h, q_stride_n, k_stride_b, k_stride_h, k_stride_n,
    v_stride_b, v_stride_h, v_stride_n, g_stride_b, g_stride_h, g_stride_n,
    out_stride_b, out_stride_h, out_stride_n, dk_stride_b, dk_stride_h, dk_stride_n,
    dv_stride_b, dv_stride_h, dv_stride_n,
    D: gl.constexpr, E: gl.constexpr, TILES: gl.constexpr, BACKWARD: gl.constexpr,
):  # fmt: skip
    """Walk one segment of one head, forward or in the role dk, dv or dq; `out` is o or dq.

    TILES is a `HopperTiles`. Its `ahead` says whether there is more than one segment: code for the blocks
    before a segment costs registers and time, even where it never runs. With `slot_ptr` the states of packed
    sequences, forward, lie in a pool (`host.Pool`), and no sequence is cut.
    """
    roles: gl.constexpr = 3 if BACKWARD else 1
    # An opaque true: the compiler would compute what a partition can derive from the kernel's arguments once
    # more at the kernel's entry, where the values of all partitions meet and are spilled.
    opaque = gl.allocate_shared_memory(gl.int32, [1], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    threads: gl.constexpr = gl.BlockedLayout([1], [32], [gl.num_warps()], [0])
    opaque.store(gl.full([1], 1, gl.int32, threads))
    barrier()
    known = gl.max(opaque.load(threads), 0) == 1
    pid = gl.program_id(0)
    role = pid % roles
    pid = pid // roles
    first_e = (pid % TILES.tiles_e) * TILES.columns
    pid = pid // TILES.tiles_e
    if TILES.ahead and offset_ptr is not None:  # all first segments start first, and empty places last
        head = pid % heads
        segment = pid // heads
        sequence = segment * 0
    else:
        segment = pid % segments
        pid = pid // segments
        head = pid % heads
        sequence = pid // heads
    kv_head = head // group
    share, shares = sequence, sequences  # of what all sequences of a walk have to do together
    first_place = segment * 0
    second_place = segment * 0
    if TILES.ahead:
        walk_number = ((sequence * heads + head) * TILES.tiles_e + first_e // TILES.columns) * roles + role
        share, shares = segment, segments
        first_place = walk_number * shares
        second_place = first_place + 1
        if offset_ptr is not None:
            sequence, segment, second_place = _find(offset_ptr, sequences, share, chunk)
            second_place += first_place
            first_place += sequence

    if slope_ptr is not None:
        slope_ptr += head
    if offset_ptr is None:
        begin = sequence * 0
        steps = gl.where(known, seq_len, 0)
        batch = sequence
    else:
        begin = gl.load(offset_ptr + sequence)
        steps = gl.load(offset_ptr + sequence + 1) - begin
        batch = sequence * 0
    padded = begin * 0
    slot = sequence
    if slot_ptr is not None:
        slot = gl.load(slot_ptr + sequence)
        padded = gl.where(slot < 0, steps, 0)
        steps -= padded
    ahead = segment * 0
    main = segment * 0
    last = gl.cdiv(steps, BLOCK)
    later = segment * 0
    warm = segment * 0
    blocks = last
    if TILES.ahead:  # a loader that need not know the slope does not wait for it
        if offset_ptr is not None:
            segments = gl.where(blocks > whole, gl.cdiv(blocks, chunk), 1)
        ahead, main, last, later, warm = _segment(slope_ptr, blocks, segment, segments, chunk, most)
    first = main - ahead

    batch64 = batch.to(gl.int64)
    q = q_ptr + batch64 * q_stride_b + head.to(gl.int64) * q_stride_h
    k = k_ptr + batch64 * k_stride_b + kv_head.to(gl.int64) * k_stride_h
    v = v_ptr + batch64 * v_stride_b + kv_head.to(gl.int64) * v_stride_h
    out = out_ptr + batch64 * out_stride_b + head.to(gl.int64) * out_stride_h
    state_at = (sequence.to(gl.int64) * heads + head) * (D * E)
    if slot_ptr is not None:
        state_at = slot.to(gl.int64) * pool_stride + head * (D * E)
    initial = initial_ptr
    final = final_ptr
    if final_ptr is not None:
        final += state_at
    earliest = segment * 0
    if TILES.ahead:
        earliest = gl.maximum(segment - 1 - warm // chunk, 0)
        has_initial = gl.where(warm > 0, earliest == 0, first == 0)
        has_final = (last == blocks) & ((main < last) | (segment == 0))
    else:
        has_initial = first == 0
        has_final = segment == segments - 1
    if slot_ptr is not None:
        has_initial = steps > 0
        has_final = steps > 0
        if begun_ptr is not None:
            has_initial = has_initial & (gl.load(begun_ptr + sequence) != 0)
        if leaving_ptr is not None:
            left_in = gl.load(leaving_ptr + sequence)
            has_final = has_final & (left_in >= 0)
            final = final_ptr + (left_in.to(gl.int64) * pool_stride + head * (D * E))
    if BACKWARD:
        g = g_ptr + batch64 * g_stride_b + head.to(gl.int64) * g_stride_h
        dk = dk_ptr + batch64 * dk_stride_b + head.to(gl.int64) * dk_stride_h
        dv = dv_ptr + batch64 * dv_stride_b + head.to(gl.int64) * dv_stride_h
        is_dv = role == 1
        is_dq = role == 2
        if initial_ptr is not None:
            if grad_state_ptr is not None:
                initial = gl.where(is_dq, initial_ptr, grad_state_ptr) + state_at
            else:
                initial = initial_ptr + state_at
                has_initial = has_initial & is_dq
        elif grad_state_ptr is not None:
            initial = grad_state_ptr + state_at
            has_initial = has_initial & (role != 2)
        result = gl.where(is_dq, out, gl.where(is_dv, dv, dk))
        a_step = gl.where(is_dq, g_stride_n, gl.where(is_dv, k_stride_n, v_stride_n))
        b_step = gl.where(is_dq, v_stride_n, gl.where(is_dv, q_stride_n, g_stride_n))
        c_step = gl.where(is_dq, k_stride_n, gl.where(is_dv, g_stride_n, q_stride_n))
        out_step = gl.where(is_dq, out_stride_n, gl.where(is_dv, dv_stride_n, dk_stride_n))
        start = (begin + gl.where(is_dq, 0, steps - 1)).to(gl.int64)
        turn = gl.where(is_dq, 1, -1)
        rows = Rows(
            gl.where(is_dq, g, gl.where(is_dv, k, v)) + start * a_step,
            gl.where(is_dq, v, gl.where(is_dv, q, g)) + start * b_step,
            gl.where(is_dq, k, gl.where(is_dv, g, q)) + start * c_step,
            a_step * turn, b_step * turn, c_step * turn,
            result + start * out_step, out_step * turn,
        )  # fmt: skip
        scale_read = gl.where(is_dq, scale, 1.0)
        scale_write = gl.where(is_dq, 1.0, scale)
        decay = Decay(slope_ptr, scale_read, scale_write, scale_read * scale_write, gl.where(is_dq, 1, 0))
        stride_d, stride_e = gl.where(is_dv, E, 1), gl.where(is_dv, 1, E)
        ends = Ends(initial, final, stride_d, stride_e, has_initial, is_dv & has_final)
        bounds = Bounds(
            gl.where(is_dv, D, E), gl.where(is_dv, E, D), first_e,
            D == E and TILES.block_d == D, D == E and TILES.tiles_e * TILES.columns == E,
        )  # fmt: skip
    else:
        result = out
        q_step = gl.where(known, q_stride_n, 16)
        k_step = gl.where(known, k_stride_n, 16)
        v_step = gl.where(known, v_stride_n, 16)
        out_step = gl.where(known, out_stride_n, 16)
        start = begin.to(gl.int64)
        if initial_ptr is not None:
            initial += state_at
        rows = Rows(
            gl.where(known, q + start * q_step, k), gl.where(known, k + start * k_step, q),
            gl.where(known, v + start * v_step, q), q_step, k_step, v_step,
            gl.where(known, out + start * out_step, q), out_step,
        )  # fmt: skip
        scale_read = gl.where(known, scale, 0.0)
        decay = Decay(slope_ptr, scale_read, 1.0, scale_read * 1.0, gl.where(known, 1, 0))
        ends = Ends(initial, final, E, 1, has_initial, has_final)
        bounds = Bounds(D, E, first_e, TILES.block_d == D, TILES.tiles_e * TILES.columns == E)
    if slot_ptr is not None:
        clear_rows(result + begin.to(gl.int64) * out_step, out_step, padded, 0, 1, bounds, TILES)
    if offset_ptr is not None:
        # The rows of no sequence: each share clears as many blocks of them as another.
        end = gl.load(offset_ptr + sequences)
        beyond = result + end.to(gl.int64) * out_step
        clear_rows(beyond, out_step, seq_len - end, share, shares, bounds, TILES)
    boxes = Boxes(
        q_box, k_box, v_box, g_box, part_q_box, part_k_box, part_g_box, sequence, head, kv_head, role
    )  # fmt: skip
    flip = gl.where(role == 2, 0, BLOCK - 1) if TILES.turned else 0
    walk = Walk(first, main, last, later, steps, flip)
    exchange = Exchange(
        sums_ptr, flags_ptr, first_place, second_place, segment, earliest, chunk, warm > 0, later > 0
    )
    _run(boxes, rows, ends, exchange, decay, walk, bounds, TILES)
