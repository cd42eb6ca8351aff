"""Batches against a pool whose results have the same bits however tokens come to be in calls, in one launch.

The bits of a sum depend on its order. Here the order is that of blocks which begin at multiples of BLOCK
tokens of a sequence, whatever a call holds of it. The pool has the state before the last block that is not
complete, and the tails k and v of its tokens. A call goes on in that block: it reads these tokens again, and
takes rows of o and, once the block is complete, the state by the products that a call with all of the block
would take. Missing tokens are zeros, which changes no bit of the others: each row of a product is summed up
by itself.
"""

import triton
import triton.language as tl
from torch import Tensor

from ..common.allocate import unit_last_stride
from ..common.launch import Launches, interpreted
from ..lightning2.portable import block_weights, clear_rows, visit_block
from ..lightning2.tiles import CATCH_UP, lightning2_tiles, shared_limit
from ..step.token_walk import load_state, save_state
from .bitwise_call import BitwiseCall

__all__ = ["serve_bitwise"]

_CATCH_UP = tl.constexpr(CATCH_UP)


@triton.jit  # type: ignore[untyped-decorator]
def decay_at(number, weights, HAS_DECAY: tl.constexpr, EACH: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return λ^B for a block by its number in the sequence, and what rounding it left over.

    With EACH that counts in each block; else the state catches up with _CATCH_UP blocks at once.
    """
    exact_decay = weights[5]
    decay = tl.cast(exact_decay, tl.float32)
    rest = tl.cast(exact_decay - decay, tl.float32)
    if HAS_DECAY and not EACH:
        decay = tl.where(number % _CATCH_UP == 0, decay + rest * _CATCH_UP, decay)
    return decay, rest


@triton.jit(do_not_specialize=["scale", "heads", "group", "tokens", "snapshot_every", "snapshot_columns"])  # type: ignore[untyped-decorator]
def bitwise_kernel(  # type: ignore[no-untyped-def]
    q_ptr, k_ptr, v_ptr, o_ptr, slope_ptr, state_ptr, k_tail_ptr, v_tail_ptr, bounds_ptr, input_ptr,
    output_ptr, context_ptr, snapshot_ptr, scale, heads, group, tokens, snapshot_every, snapshot_columns,
    q_stride_n, q_stride_h, k_stride_n, k_stride_h, v_stride_n, v_stride_h, o_stride_n, o_stride_h,
    state_stride_b, state_stride_h, state_stride_d,
    k_tail_stride_b, k_tail_stride_h, k_tail_stride_s, k_tail_stride_n,
    v_tail_stride_b, v_tail_stride_h, v_tail_stride_n,
    D: tl.constexpr, E: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    HAS_DECAY: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program takes BLOCK_E columns of one head of one sequence from its last incomplete block on."""
    tiles_e: tl.constexpr = (E + BLOCK_E - 1) // BLOCK_E
    PADDED: tl.constexpr = D != BLOCK_D or E % BLOCK_E != 0
    PADDED_D: tl.constexpr = D != BLOCK_D
    PADDED_E: tl.constexpr = E % BLOCK_E != 0
    EACH: tl.constexpr = q_ptr.dtype.element_ty == tl.float32
    pid = tl.program_id(0)
    piece = pid % tiles_e
    first_e = piece * BLOCK_E
    head = (pid // tiles_e) % heads
    sequence = pid // tiles_e // heads
    head64 = tl.cast(head, tl.int64)
    kv_head = tl.cast(head // group, tl.int64)
    row_d = tl.arange(0, BLOCK_D)
    col_e = first_e + tl.arange(0, BLOCK_E)
    d_ok = row_d < D
    e_ok = col_e < E
    row = tl.arange(0, BLOCK)
    row64 = tl.cast(row, tl.int64)

    first = tl.load(bounds_ptr + sequence)
    n = tl.load(bounds_ptr + sequence + 1) - first
    slot = tl.load(input_ptr + sequence)
    out_slot = slot
    if output_ptr is not None:
        out_slot = tl.load(output_ptr + sequence)
    before = tl.load(context_ptr + sequence)
    first64 = tl.cast(first, tl.int64)
    slot64 = tl.cast(slot, tl.int64)
    q_ptr += head64 * q_stride_h + first64 * q_stride_n
    k_ptr += kv_head * k_stride_h + first64 * k_stride_n
    v_ptr += kv_head * v_stride_h + first64 * v_stride_n
    o_head_ptr = o_ptr + head64 * o_stride_h
    o_ptr = o_head_ptr + first64 * o_stride_n
    state_ptr += head64 * state_stride_h
    k_tail_ptr += head64 * k_tail_stride_h + tl.cast(piece, tl.int64) * k_tail_stride_s
    v_tail_ptr += head64 * v_tail_stride_h
    k_old = k_tail_ptr + slot64 * k_tail_stride_b + row64 * k_tail_stride_n  # [BLOCK]
    v_old = v_tail_ptr + slot64 * v_tail_stride_b + row64 * v_tail_stride_n  # [BLOCK]

    if (slot >= 0) & (n > 0):
        tile = tl.cast(row_d, tl.int64)[:, None] * state_stride_d + col_e[None, :]  # [BLOCK_D, BLOCK_E]
        place = (tile, d_ok, e_ok, head * D + row_d, first_e)
        weights = block_weights(slope_ptr, head, scale, BLOCK, HAS_DECAY, False)
        factors = (weights[2], weights[3], weights[4])
        kept = before % BLOCK  # tokens in the tail
        number = before // BLOCK  # of the block that they are of
        whole = (kept + n) // BLOCK  # blocks that the call completes
        left = kept + n - whole * BLOCK
        state_t = tl.zeros([BLOCK_E, BLOCK_D], dtype=tl.float32)
        if number > 0:
            tile_t = col_e[:, None] + tl.cast(row_d, tl.int64)[None, :] * state_stride_d
            state_t = load_state(state_ptr + slot64 * state_stride_b + tile_t, e_ok, d_ok, PADDED)

        end = number + whole
        # The block of the tail, if it becomes complete. It is a loop: after an `if`, ptxas would run the
        # products of the whole kernel one by one (C7515).
        for _ in tl.range(0, tl.where((kept > 0) & (whole > 0), 1, 0), num_stages=1):
            token = row64 - kept
            old = row < kept
            state_t = visit_block(
                (
                    q_ptr + row_d[:, None] + (token * q_stride_n)[None, :],
                    tl.where(old, k_old, k_ptr + token * k_stride_n)[:, None] + row_d[None, :],
                    tl.where(old, v_old, v_ptr + token * v_stride_n)[None, :] + col_e[:, None],
                    o_ptr + col_e[:, None] + (token * o_stride_n)[None, :],
                ),
                (row >= kept, row < BLOCK, d_ok, e_ok), factors, decay_at(number, weights, HAS_DECAY, EACH),
                state_t, True, HAS_DECAY, HAS_DECAY, True, True, PADDED_D, PADDED_E, PRECISION,
            )  # fmt: skip
            number += 1
            if snapshot_ptr is not None:
                column = number * BLOCK // snapshot_every - before // snapshot_every - 1
                if (number * BLOCK % snapshot_every == 0) & (column < snapshot_columns):
                    kept_slot = tl.load(snapshot_ptr + sequence * snapshot_columns + column)
                    save_state(
                        tl.trans(state_t), state_ptr, kept_slot, state_stride_b, place, 0, 0,
                        E, BLOCK_D, BLOCK_E, PADDED, False,
                    )  # fmt: skip
        q_tile = row_d[:, None] + row64[None, :] * q_stride_n  # [BLOCK_D, BLOCK]
        k_tile = row64[:, None] * k_stride_n + row_d[None, :]  # [BLOCK, BLOCK_D]
        v_tile = col_e[:, None] + row64[None, :] * v_stride_n  # [BLOCK_E, BLOCK]
        o_tile = col_e[:, None] + row64[None, :] * o_stride_n  # [BLOCK_E, BLOCK]
        stops = 1
        if snapshot_ptr is not None:
            stops = (end * BLOCK) // snapshot_every - (number * BLOCK) // snapshot_every + 1
        for _ in range(stops):
            stop = end
            if snapshot_ptr is not None:
                stop = tl.minimum((number * BLOCK // snapshot_every + 1) * (snapshot_every // BLOCK), end)
            for block in range(number, stop):
                start = tl.cast(block, tl.int64) * BLOCK - before
                state_t = visit_block(
                    (
                        q_ptr + start * q_stride_n + q_tile, k_ptr + start * k_stride_n + k_tile,
                        v_ptr + start * v_stride_n + v_tile, o_ptr + start * o_stride_n + o_tile,
                    ),
                    (row < BLOCK, row < BLOCK, d_ok, e_ok), factors,
                    decay_at(tl.cast(block, tl.int32), weights, HAS_DECAY, EACH),
                    state_t, True, HAS_DECAY, HAS_DECAY, False, True, PADDED_D, PADDED_E, PRECISION,
                )  # fmt: skip
            if snapshot_ptr is not None:
                column = stop * BLOCK // snapshot_every - before // snapshot_every - 1
                if (stop > number) & (stop * BLOCK % snapshot_every == 0) & (column < snapshot_columns):
                    kept_slot = tl.load(snapshot_ptr + sequence * snapshot_columns + column)
                    save_state(
                        tl.trans(state_t), state_ptr, kept_slot, state_stride_b, place, 0, 0,
                        E, BLOCK_D, BLOCK_E, PADDED, False,
                    )  # fmt: skip
            number = tl.maximum(number, stop)
        if (whole > 0) | (out_slot != slot):
            save_state(
                tl.trans(state_t), state_ptr, out_slot, state_stride_b, place, 0, 0,
                E, BLOCK_D, BLOCK_E, PADDED, False,
            )  # fmt: skip
        if left > 0:  # the last block stays incomplete: its tokens go to the tail
            kept = tl.where(whole > 0, 0, kept)
            token = tl.cast(end, tl.int64) * BLOCK - before + row64
            old = row < kept
            k_rows = tl.where(old, k_old, k_ptr + token * k_stride_n)
            v_rows = tl.where(old, v_old, v_ptr + token * v_stride_n)
            inside = row < left
            visit_block(
                (
                    q_ptr + row_d[:, None] + (token * q_stride_n)[None, :],
                    k_rows[:, None] + row_d[None, :],
                    v_rows[None, :] + col_e[:, None],
                    o_ptr + col_e[:, None] + (token * o_stride_n)[None, :],
                ),
                ((row >= kept) & inside, inside, d_ok, e_ok), factors, (1.0, 0.0),
                state_t, True, HAS_DECAY, HAS_DECAY, True, False, PADDED_D, PADDED_E, PRECISION,
            )  # fmt: skip
            if out_slot >= 0:
                moved = inside & ((row >= kept) | (out_slot != slot))
                k_mask = moved[:, None] & d_ok[None, :]
                v_mask = moved[:, None] & e_ok[None, :]
                k_new = tl.load(k_rows[:, None] + row_d[None, :], mask=k_mask)
                v_new = tl.load(v_rows[:, None] + col_e[None, :], mask=v_mask)
                out64 = tl.cast(out_slot, tl.int64)
                k_place = k_tail_ptr + out64 * k_tail_stride_b + row64 * k_tail_stride_n
                v_place = v_tail_ptr + out64 * v_tail_stride_b + row64 * v_tail_stride_n
                tl.debug_barrier()  # no thread reads the old tail any more
                tl.store(k_place[:, None] + row_d[None, :], k_new, mask=k_mask)
                tl.store(v_place[:, None] + col_e[None, :], v_new, mask=v_mask)

    if slot < 0:  # padding
        clear_rows(o_head_ptr, o_stride_n, col_e, e_ok, first, first + n, 0, 1, BLOCK)
    sequences = tl.num_programs(0) // (tiles_e * heads)  # and the rows of no sequence, which all share
    beyond = tl.load(bounds_ptr + sequences)
    clear_rows(o_head_ptr, o_stride_n, col_e, e_ok, beyond, tokens, sequence, sequences, BLOCK)


def serve_bitwise(call: BitwiseCall) -> Tensor:
    """Compute o [tokens, heads, value_dim] and update pool and tails of a call, which has been checked.

    Raises:
        ValueError: for tensors that are not on a GPU, unless the Triton interpreter is on.
    """
    call = call.for_kernels()
    q, k, v = (unit_last_stride(x) for x in call[:3])
    if not q.is_cuda and not interpreted(bitwise_kernel):
        raise ValueError(
            f"lightning_attn2_serve_bitwise needs tensors on a GPU, got {q.device}: use "
            "lightning_attn2_serve_bitwise_torch there, or set TRITON_INTERPRET=1 before the import to debug"
        )
    tokens, heads, d = q.shape
    e = v.shape[2]
    out = q.new_empty((tokens, heads, e))
    tiles = lightning2_tiles(d, e, q.dtype, shared_limit(q.get_device()))
    snapshots = call.snapshot_indices
    tensors = (
        q, k, v, out, call.slopes, call.state, call.k_tails, call.v_tails, call.cu_seqlens,
        call.state_indices, call.output_state_indices, call.context_lens, snapshots,
    )  # fmt: skip
    columns = 0 if snapshots is None else snapshots.shape[1]
    rest: tuple[int | str, ...] = (
        heads, heads // k.shape[1], tokens, call.snapshot_every, columns,
        *q.stride()[:2], *k.stride()[:2], *v.stride()[:2], *out.stride()[:2], *call.state.stride()[:3],
        *call.k_tails.stride()[:4], *call.v_tails.stride()[:3],
        d, e, tiles.block, tiles.block_d, tiles.block_e, call.slopes is not None, tiles.precision,
    )  # fmt: skip
    programs = call.state_indices.shape[0] * heads * tiles.split_e
    options = (("num_warps", tiles.warps), ("num_stages", tiles.stages))
    _launches((programs, 1, 1), tensors, call.scale, rest, options)
    return out


_launches = Launches(bitwise_kernel)
