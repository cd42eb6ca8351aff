"""Drafts of several tokens against a pool of states, and accepted tokens put into it, in one launch.

A program reads some columns of the state of one head of one sequence once. It walks over the accepted tokens
and writes the state back, then over those of the draft, whose states stay in its registers. Token by token it
is what a decoding step does: a draft that is accepted leaves the state that as many steps leave.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.allocate import unit_last_stride
from ..common.launch import Launches, interpreted, sequence_grid
from ..lightning2.tiles import padded
from ..step.step_kernel import step_block_e
from ..step.token_walk import load_state, round_state, store_state, token_decay, walk_tokens
from .drafts import Draft

__all__ = ["verify"]

_WARPS = 4


@triton.jit(do_not_specialize=["scale", "tokens", "kept"])  # type: ignore[untyped-decorator]
def verify_kernel(  # type: ignore[no-untyped-def]
    state_ptr, q_ptr, k_ptr, v_ptr, o_ptr, slope_ptr, index_ptr, kept_k_ptr, kept_v_ptr, accepted_ptr,
    seed_ptr, scale, tokens, kept,
    q_stride_b, q_stride_n, q_stride_h, k_stride_b, k_stride_n, k_stride_h,
    v_stride_b, v_stride_n, v_stride_h, o_stride_b, o_stride_n, o_stride_h,
    kept_k_stride_b, kept_k_stride_n, kept_k_stride_h, kept_v_stride_b, kept_v_stride_n, kept_v_stride_h,
    state_stride_b, state_stride_h, state_stride_d,
    GROUP: tl.constexpr, D: tl.constexpr, E: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    HAS_DECAY: tl.constexpr,
):  # fmt: skip
    """One program takes BLOCK_E columns of one head of one sequence through kept tokens and a draft."""
    tiles_e: tl.constexpr = (E + BLOCK_E - 1) // BLOCK_E
    PADDED: tl.constexpr = D != BLOCK_D or E % BLOCK_E != 0
    STOCHASTIC: tl.constexpr = seed_ptr is not None
    pid = tl.program_id(0)
    first_e = (pid % tiles_e) * BLOCK_E
    head = pid // tiles_e
    sequence = tl.program_id(1)
    batch = tl.cast(sequence, tl.int64)
    head64 = tl.cast(head, tl.int64)
    kv_head = tl.cast(head // GROUP, tl.int64)
    row_d = tl.arange(0, BLOCK_D)
    col_e = first_e + tl.arange(0, BLOCK_E)
    d_ok = row_d < D
    e_ok = col_e < E
    columns = (row_d, col_e, d_ok, e_ok)
    tile = tl.cast(row_d, tl.int64)[:, None] * state_stride_d + col_e[None, :]  # [BLOCK_D, BLOCK_E]
    state_ptr += head64 * state_stride_h

    slot = tl.load(index_ptr + sequence)
    if slot >= 0:
        pointers = state_ptr + tl.cast(slot, tl.int64) * state_stride_b + tile
        state = load_state(pointers, d_ok, e_ok, PADDED)
        decay = token_decay(slope_ptr, head, HAS_DECAY)
        if accepted_ptr is not None:
            accepted = tl.minimum(tl.load(accepted_ptr + sequence), kept)
            kept_k_ptr += batch * kept_k_stride_b + kv_head * kept_k_stride_h
            kept_v_ptr += batch * kept_v_stride_b + kv_head * kept_v_stride_h
            state = walk_tokens(
                (kept_k_ptr, kept_k_ptr, kept_v_ptr, kept_v_ptr),
                (kept_k_stride_n, kept_k_stride_n, kept_v_stride_n, kept_v_stride_n),
                columns, state, accepted, decay, 1.0, HAS_DECAY, False,
            )  # fmt: skip
            if accepted > 0:
                seed = 0
                if STOCHASTIC:
                    seed = tl.load(seed_ptr + sequence)
                place = (tile, d_ok, e_ok, head * D + row_d, first_e)
                rounded = round_state(
                    state, state_ptr, place, seed, accepted, E, BLOCK_D, BLOCK_E, STOCHASTIC
                )
                store_state(pointers, rounded, d_ok, e_ok, PADDED)
                state = tl.cast(rounded, tl.float32)  # as the next call would read it
        if q_ptr is not None:
            walk_tokens(
                (
                    q_ptr + batch * q_stride_b + head64 * q_stride_h,
                    k_ptr + batch * k_stride_b + kv_head * k_stride_h,
                    v_ptr + batch * v_stride_b + kv_head * v_stride_h,
                    o_ptr + batch * o_stride_b + head64 * o_stride_h,
                ),
                (q_stride_n, k_stride_n, v_stride_n, o_stride_n),
                columns, state, tokens, decay, scale, HAS_DECAY, True,
            )  # fmt: skip
    elif q_ptr is not None:  # padding
        out_ptr = o_ptr + batch * o_stride_b + head64 * o_stride_h + col_e
        for t in range(tokens):
            nothing = tl.zeros([BLOCK_E], dtype=o_ptr.dtype.element_ty)
            tl.store(out_ptr + t * o_stride_n, nothing, mask=e_ok)


def verify(draft: Draft, o: Tensor | None, name: str) -> None:
    """Put accepted tokens into the pool, and write o [b, tokens, heads, value_dim] of the draft, if any.

    Raises:
        ValueError: for more than 65535 sequences, or tensors that are not on a GPU, unless the Triton
            interpreter is on; `name` is called.
    """
    state = draft.state
    if not state.is_cuda and not interpreted(verify_kernel):
        raise ValueError(
            f"{name} needs tensors on a GPU, got {state.device}: use {name}_torch there, or set "
            "TRITON_INTERPRET=1 before the import to debug"
        )
    slopes = None if draft.slopes is None else draft.slopes.to(torch.float32).contiguous()
    q, k, v = (None if x is None else unit_last_stride(x) for x in draft[:3])
    kept_k = kept_v = count = None
    if draft.accepted is not None:
        kept_k, kept_v = unit_last_stride(draft.accepted.k), unit_last_stride(draft.accepted.v)
        count = draft.accepted.num_accepted.contiguous()
    seeds = None if draft.rounding_seeds is None else draft.rounding_seeds.contiguous()
    batch, (heads, d, e) = draft.state_indices.shape[0], state.shape[1:]
    keys = next(x for x in (k, kept_k) if x is not None)
    block_e = step_block_e(batch * heads, d, e)
    if batch == 0:
        return
    indices = draft.state_indices.contiguous()
    tensors = state, q, k, v, o, slopes, indices, kept_k, kept_v, count, seeds
    rest = (
        0 if q is None else q.shape[1], 0 if kept_k is None else kept_k.shape[1],
        *_strides(q), *_strides(k), *_strides(v), *_strides(o), *_strides(kept_k), *_strides(kept_v),
        *state.stride()[:3], heads // keys.shape[2], d, e, padded(d), block_e, slopes is not None,
    )  # fmt: skip
    grid = sequence_grid(heads * -(-e // block_e), batch)
    _launches(grid, tensors, float(draft.scale), rest, _OPTIONS)


def _strides(x: Tensor | None) -> tuple[int, ...]:
    return (0, 0, 0) if x is None else x.stride()[:3]


_launches = Launches(verify_kernel)
_OPTIONS = (("num_warps", _WARPS),)
