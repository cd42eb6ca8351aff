"""A batch of prompts and decoding tokens against a pool of states, in one launch.

A program owns some columns of value_dim of one head of one sequence. The lengths are on the device: a program
reads those of its sequence and goes token by token through a short one, as a step does (a product of a matrix
and a vector per token, bound by reading the state), and block by block through a long one. So neither
kind waits for the other, and the host knows nothing but how many sequences there may be.
"""

from dataclasses import replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.allocate import unit_last_stride
from ..common.launch import Launches, interpreted, sequence_grid
from ..common.switches import invariant
from ..lightning2.portable import block_weights, clear_rows, walk_blocks
from ..lightning2.tiles import Tiles, serve_tiles, shared_limit
from ..step.step_kernel import step_tile_of
from ..step.token_walk import load_state, save_state, token_decay, walk_tokens
from .serve_call import ServeCall

__all__ = ["serve", "step_tiles"]

WALKED = 8
"""Sequences of up to so many tokens are walked token by token."""


@triton.jit(do_not_specialize=["scale", "tokens", "snapshot_every", "snapshot_columns"])  # type: ignore[untyped-decorator]
def serve_kernel(  # type: ignore[no-untyped-def]
    q_ptr, k_ptr, v_ptr, o_ptr, slope_ptr, state_ptr, bounds_ptr, input_ptr, output_ptr, initial_ptr,
    context_ptr, snapshot_ptr, seed_ptr, scale, tokens, snapshot_every, snapshot_columns,
    q_stride_n, q_stride_h, k_stride_n, k_stride_h, v_stride_n, v_stride_h, o_stride_n, o_stride_h,
    state_stride_b, state_stride_h, state_stride_d,
    GROUP: tl.constexpr, D: tl.constexpr, E: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_E: tl.constexpr, HAS_DECAY: tl.constexpr, BLOCKWISE: tl.constexpr, WALKED: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One program takes BLOCK_E columns of one head of one sequence through all its tokens.

    Without BLOCKWISE every sequence is walked token by token.
    """
    tiles_e: tl.constexpr = (E + BLOCK_E - 1) // BLOCK_E
    PADDED: tl.constexpr = D != BLOCK_D or E % BLOCK_E != 0
    STOCHASTIC: tl.constexpr = seed_ptr is not None
    pid = tl.program_id(0)
    first_e = (pid % tiles_e) * BLOCK_E
    head = pid // tiles_e
    sequence = tl.program_id(1)
    head64 = tl.cast(head, tl.int64)
    kv_head = tl.cast(head // GROUP, tl.int64)
    row_d = tl.arange(0, BLOCK_D)
    col_e = first_e + tl.arange(0, BLOCK_E)
    d_ok = row_d < D
    e_ok = col_e < E

    first = tl.load(bounds_ptr + sequence)
    n = tl.load(bounds_ptr + sequence + 1) - first
    slot = tl.load(input_ptr + sequence)
    out_slot = slot
    if output_ptr is not None:
        out_slot = tl.load(output_ptr + sequence)
    begun = slot >= 0
    if initial_ptr is not None:
        begun = begun & (tl.load(initial_ptr + sequence) != 0)
    before = 0
    if context_ptr is not None:
        before = tl.load(context_ptr + sequence)
    seed = 0
    if STOCHASTIC:
        seed = tl.load(seed_ptr + sequence)

    first64 = tl.cast(first, tl.int64)
    q_ptr += head64 * q_stride_h + first64 * q_stride_n
    k_ptr += kv_head * k_stride_h + first64 * k_stride_n
    v_ptr += kv_head * v_stride_h + first64 * v_stride_n
    o_head_ptr = o_ptr + head64 * o_stride_h
    o_ptr = o_head_ptr + first64 * o_stride_n
    state_ptr += head64 * state_stride_h
    entering_ptr = state_ptr + tl.cast(slot, tl.int64) * state_stride_b
    tile = tl.cast(row_d, tl.int64)[:, None] * state_stride_d + col_e[None, :]  # [BLOCK_D, BLOCK_E]
    place = (tile, d_ok, e_ok, head * D + row_d, first_e)

    steps = (q_stride_n, k_stride_n, v_stride_n, o_stride_n)
    stops = 1  # where the walk ends, and before where a snapshot is taken
    if snapshot_ptr is not None:
        stops = (before % snapshot_every + n) // snapshot_every + 1

    walks = (slot >= 0) & (n > 0)
    if BLOCKWISE:
        walks = walks & (n <= WALKED)
    if walks:
        state = tl.zeros([BLOCK_D, BLOCK_E], dtype=tl.float32)
        if begun:
            state = load_state(entering_ptr + tile, d_ok, e_ok, PADDED)
        keep, change = token_decay(slope_ptr, head, HAS_DECAY)
        done = tl.cast(0, tl.int64)
        for number in range(stops):
            end = n
            if snapshot_ptr is not None:
                end = tl.minimum((number + 1) * snapshot_every - before % snapshot_every, n)
            state = walk_tokens(
                (
                    q_ptr + done * q_stride_n, k_ptr + done * k_stride_n,
                    v_ptr + done * v_stride_n, o_ptr + done * o_stride_n,
                ),
                steps, (row_d, col_e, d_ok, e_ok), state, tl.cast(end - done, tl.int32), (keep, change),
                scale, HAS_DECAY, True,
            )  # fmt: skip
            done = tl.cast(end, tl.int64)
            if snapshot_ptr is not None:  # noqa: SIM102
                if (number < stops - 1) & (number < snapshot_columns):
                    kept_slot = tl.load(snapshot_ptr + sequence * snapshot_columns + number)
                    save_state(
                        state, state_ptr, kept_slot, state_stride_b, place, seed, end,
                        E, BLOCK_D, BLOCK_E, PADDED, STOCHASTIC,
                    )  # fmt: skip
        save_state(
            state, state_ptr, out_slot, state_stride_b, place, seed, n,
            E, BLOCK_D, BLOCK_E, PADDED, STOCHASTIC,
        )  # fmt: skip

    if BLOCKWISE:  # noqa: SIM102 (for Triton a branch of its own, which is not compiled)
        if (slot >= 0) & (n > WALKED):
            row64 = tl.cast(tl.arange(0, BLOCK), tl.int64)
            offsets = (
                row_d[:, None] + row64[None, :] * q_stride_n,  # [BLOCK_D, BLOCK]
                row64[:, None] * k_stride_n + row_d[None, :],  # [BLOCK, BLOCK_D]
                col_e[:, None] + row64[None, :] * v_stride_n,  # [BLOCK_E, BLOCK]
                col_e[:, None] + row64[None, :] * o_stride_n,  # [BLOCK_E, BLOCK]
            )
            weights = block_weights(slope_ptr, head, scale, BLOCK, HAS_DECAY, False)
            state_t = tl.zeros([BLOCK_E, BLOCK_D], dtype=tl.float32)
            if begun:
                tile_t = col_e[:, None] + tl.cast(row_d, tl.int64)[None, :] * state_stride_d
                state_t = load_state(entering_ptr + tile_t, e_ok, d_ok, PADDED)
            done = tl.cast(0, tl.int64)
            for number in range(stops):
                end = n
                if snapshot_ptr is not None:
                    end = tl.minimum((number + 1) * snapshot_every - before % snapshot_every, n)
                state_t = walk_blocks(
                    (
                        q_ptr + done * q_stride_n, k_ptr + done * k_stride_n,
                        v_ptr + done * v_stride_n, o_ptr + done * o_stride_n,
                    ),
                    offsets, steps, (d_ok, e_ok), weights, state_t, tl.cast(end - done, tl.int32),
                    BLOCK, HAS_DECAY, False, True, D != BLOCK_D, E % BLOCK_E != 0, PRECISION,
                )  # fmt: skip
                done = tl.cast(end, tl.int64)
                if snapshot_ptr is not None:  # noqa: SIM102
                    if (number < stops - 1) & (number < snapshot_columns):
                        kept_slot = tl.load(snapshot_ptr + sequence * snapshot_columns + number)
                        save_state(
                            tl.trans(state_t), state_ptr, kept_slot, state_stride_b, place, seed, end,
                            E, BLOCK_D, BLOCK_E, PADDED, STOCHASTIC,
                        )  # fmt: skip
            save_state(
                tl.trans(state_t), state_ptr, out_slot, state_stride_b, place, seed, n,
                E, BLOCK_D, BLOCK_E, PADDED, STOCHASTIC,
            )  # fmt: skip

    if slot < 0:  # padding
        clear_rows(o_head_ptr, o_stride_n, col_e, e_ok, first, first + n, 0, 1, BLOCK)
    sequences = tl.num_programs(1)  # and the rows of no sequence, which all share
    end = tl.load(bounds_ptr + sequences)
    clear_rows(o_head_ptr, o_stride_n, col_e, e_ok, end, tokens, sequence, sequences, BLOCK)


def step_tiles(tiles: Tiles, states: int, head_dim: int, value_dim: int) -> Tiles:
    """Choose the tiles of a launch that walks token by token only: those of a decoding step."""
    block_e, warps = step_tile_of(states, head_dim, value_dim)
    return replace(tiles, block=16, block_e=block_e, split_e=-(-value_dim // block_e), warps=warps, stages=1)


def serve(call: ServeCall) -> Tensor:
    """Compute o [tokens, heads, value_dim] and update the pool of a call, which has been checked.

    Raises:
        ValueError: for more than 65535 sequences, or tensors that are not on a GPU, unless the Triton
            interpreter is on.
    """
    q, k, v = (unit_last_stride(x) for x in call[:3])
    if not q.is_cuda and not interpreted(serve_kernel):
        raise ValueError(
            f"lightning_attn2_serve needs tensors on a GPU, got {q.device}: use lightning_attn2_serve_torch "
            "there, or set TRITON_INTERPRET=1 before the import to debug"
        )
    tokens, heads, d = q.shape
    e = v.shape[2]
    out = torch.empty((tokens, heads, e), dtype=q.dtype, device=q.device)
    call = call.for_kernels()
    sequences = call.state_indices.shape[0]
    tiles = serve_tiles(d, e, q.dtype, shared_limit(q.get_device()))
    # Bits that depend on nothing but the sequence take one order of additions: that of the tokens.
    blockwise = not invariant() and not 0 < call.max_seqlen <= WALKED
    if not blockwise:
        tiles = step_tiles(tiles, sequences * heads, d, e)
    snapshots = call.snapshot_indices
    tensors = (
        q, k, v, out, call.slopes, call.state, call.cu_seqlens, call.state_indices,
        call.output_state_indices, call.has_initial_state, call.context_lens, snapshots, call.rounding_seeds,
    )  # fmt: skip
    columns = 0 if snapshots is None else snapshots.shape[1]
    rest: tuple[int | str, ...] = (
        tokens, call.snapshot_every, columns,
        *q.stride()[:2], *k.stride()[:2], *v.stride()[:2], *out.stride()[:2], *call.state.stride()[:3],
        heads // k.shape[1], d, e, tiles.block, tiles.block_d, tiles.block_e, call.slopes is not None,
        blockwise, WALKED, tiles.precision,
    )  # fmt: skip
    options = (("num_warps", tiles.warps), ("num_stages", tiles.stages))
    _launches(sequence_grid(heads * tiles.split_e, sequences), tensors, call.scale, rest, options)
    return out


_launches = Launches(serve_kernel)
