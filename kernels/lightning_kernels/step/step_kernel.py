"""One token of linear attention with decay for each sequence: the state is read and written once.

    KV ← λ KV + kᵀ v,    o = scale · q · KV,    λ = exp(−s)

A program owns all of head_dim and a slice of value_dim of one (batch, head), so that o needs no sum across
programs. Nothing else of size is touched: the speed is that of a copy of the state.
"""

from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.allocate import unit_last_stride
from ..common.launch import Launches, interpreted, on_device, sequence_grid
from ..common.switches import invariant
from .step_call import StepCall
from .token_walk import load_state, load_token, round_state, store_state, token_decay, visit_token

__all__ = ["AttentionStep", "step_block_e", "step_tile_of"]

_ENOUGH_PROGRAMS = 264
"""Two for each of the 132 multiprocessors of an H200."""


@triton.jit  # type: ignore[untyped-decorator]
def step_tile(  # type: ignore[no-untyped-def]
    token, columns, state_ptr, place, slope_ptr, head, seed, scale,
    E: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr, HAS_DECAY: tl.constexpr,
    PADDED: tl.constexpr, STOCHASTIC: tl.constexpr,
):  # fmt: skip
    """Update a tile of the state in place and return as many columns of o."""
    row_d, col_e, d_ok, e_ok = columns
    tile, _, _, _, _ = place
    state = load_state(state_ptr + tile, d_ok, e_ok, PADDED)
    q, k, v = load_token(token, row_d, col_e, d_ok, e_ok)
    keep, change = token_decay(slope_ptr, head, HAS_DECAY)
    state = visit_token(state, k, v, keep, change, HAS_DECAY)
    rounded = round_state(state, state_ptr, place, seed, 1, E, BLOCK_D, BLOCK_E, STOCHASTIC)
    store_state(state_ptr + tile, rounded, d_ok, e_ok, PADDED)
    return tl.sum(state * q[:, None], axis=0) * scale  # [BLOCK_E]


@triton.jit(do_not_specialize=["scale"])  # type: ignore[untyped-decorator]
def attention_step_kernel(  # type: ignore[no-untyped-def]
    q_ptr, k_ptr, v_ptr, o_ptr, state_ptr, slope_ptr, index_ptr, seed_ptr, scale,
    q_stride_b, q_stride_h, k_stride_b, k_stride_h, v_stride_b, v_stride_h, o_stride_b, o_stride_h,
    state_stride_b, state_stride_h, state_stride_d,
    GROUP: tl.constexpr, D: tl.constexpr, E: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    HAS_DECAY: tl.constexpr,
):  # fmt: skip
    """One program updates BLOCK_E columns of the state of one (batch, head) and computes as many of o.

    Nothing is divided by a number that the compiler does not know: for one sequence, each division is felt.
    With `index_ptr` states are in a pool, and a batch entry whose slot is below 0 is padding.
    """
    tiles_e: tl.constexpr = (E + BLOCK_E - 1) // BLOCK_E
    pid = tl.program_id(0)
    first_e = (pid % tiles_e) * BLOCK_E
    head = pid // tiles_e
    batch = tl.cast(tl.program_id(1), tl.int64)
    head64 = tl.cast(head, tl.int64)
    kv_head = tl.cast(head // GROUP, tl.int64)
    q_ptr += batch * q_stride_b + head64 * q_stride_h
    k_ptr += batch * k_stride_b + kv_head * k_stride_h
    v_ptr += batch * v_stride_b + kv_head * v_stride_h
    o_ptr += batch * o_stride_b + head64 * o_stride_h
    slot = batch
    if index_ptr is not None:
        slot = tl.cast(tl.load(index_ptr + batch), tl.int64)
    state_ptr += slot * state_stride_b + head64 * state_stride_h

    row_d = tl.arange(0, BLOCK_D)
    col_e = first_e + tl.arange(0, BLOCK_E)
    d_ok = row_d < D
    e_ok = col_e < E
    tile = tl.cast(row_d, tl.int64)[:, None] * state_stride_d + col_e[None, :]  # [BLOCK_D, BLOCK_E]
    PADDED: tl.constexpr = D != BLOCK_D or E % BLOCK_E != 0
    STOCHASTIC: tl.constexpr = seed_ptr is not None
    seed = 0
    if STOCHASTIC:
        seed = tl.load(seed_ptr + batch)
    token = (q_ptr, k_ptr, v_ptr)
    columns = (row_d, col_e, d_ok, e_ok)
    place = (tile, d_ok, e_ok, head * D + row_d, first_e)
    if index_ptr is None:
        o = step_tile(
            token, columns, state_ptr, place, slope_ptr, head, seed, scale,
            E, BLOCK_D, BLOCK_E, HAS_DECAY, PADDED, STOCHASTIC,
        )  # fmt: skip
    else:
        o = tl.zeros([BLOCK_E], dtype=tl.float32)
        if slot >= 0:
            o = step_tile(
                token, columns, state_ptr, place, slope_ptr, head, seed, scale,
                E, BLOCK_D, BLOCK_E, HAS_DECAY, PADDED, STOCHASTIC,
            )  # fmt: skip
    tl.store(o_ptr + col_e, tl.cast(o, o_ptr.dtype.element_ty), mask=e_ok)


def step_tile_of(states: int, head_dim: int, value_dim: int) -> tuple[int, int]:
    """Choose the columns of the state that one program of a step owns, and its warps.

    Eight warps with 16 registers of the state per thread are 2 to 7 % faster than four with 32
    (kernels/NOTES.md), but for heads so few that each program should own less. Where results are to be
    `invariant`, the tiles are those of the kernels that take several tokens, whose order of sums they have.
    """
    if head_dim <= 64 or invariant():
        return step_block_e(states, head_dim, value_dim), 4
    block_e = min(32, _padded(value_dim))
    if block_e < 32 or 2 * states * -(-value_dim // block_e) < _ENOUGH_PROGRAMS:
        return min(block_e, 16), 4
    return block_e, 8


def step_block_e(states: int, head_dim: int, value_dim: int) -> int:
    """Choose the columns of the state that one program of four warps owns.

    A row of 32 fp32 columns is a whole cache line of 128 bytes, and 128 rows of it are 16 KiB in flight per
    program in 32 registers per thread. Where `states` = batch · heads are too few for two programs per
    multiprocessor, half of that, down to 16 columns; not where results are to be `invariant`, since the order
    in which a program sums depends on it.
    """
    block_e = min(64 if head_dim <= 64 else 32, _padded(value_dim))
    while not invariant() and block_e > 16 and states * -(-value_dim // block_e) < _ENOUGH_PROGRAMS:
        block_e //= 2
    return block_e


class AttentionStep:
    """Decode steps whose tensors have the same shapes, strides, dtypes, devices and alignments.

    Calling it updates states in place and returns o [b, hq, value_dim].

    Raises:
        ValueError: for more than 65535 sequences, or tensors that are not on a GPU, unless the Triton
            interpreter is on.
    """

    def __init__(self, call: StepCall) -> None:
        q, k, v, slopes, state, indices, seeds = call
        if not q.is_cuda and not interpreted(attention_step_kernel):
            raise ValueError(
                f"lightning_attn2_step needs tensors on a GPU, got {q.device}: use "
                "lightning_attn2_step_torch there, or set TRITON_INTERPRET=1 before the import to debug"
            )
        b, h, d = q.shape
        e = v.shape[2]
        self._shape = b, h, e
        self._like_v = v.shape == self._shape
        self._readable = all(x.stride(-1) == 1 for x in (q, k, v)) and (
            slopes is None or (slopes.dtype == torch.float32 and slopes.is_contiguous())
        )
        self._readable &= all(x is None or x.is_contiguous() for x in (indices, seeds))
        strides = (*(unit_last_stride(x).stride()[:2] for x in (q, k, v)), (h * e, e), state.stride()[:3])
        block_e, warps = step_tile_of(b * h, d, e)
        self._options = (("num_warps", warps),)
        self._grid = sequence_grid(h * -(-e // block_e), b)
        self._rest = (
            *(stride for group in strides for stride in group),
            h // k.shape[1], d, e, _padded(d), block_e, slopes is not None,
        )  # fmt: skip
        self._again: Callable[..., object] | None = None

    def __call__(self, call: StepCall, scale: float) -> Tensor:
        """Update the states and return o."""
        q, k, v, slopes, state, indices, seeds = call
        if self._like_v:  # takes less time
            out = torch.empty_like(v, memory_format=torch.contiguous_format)
        else:
            out = torch.empty(self._shape, dtype=q.dtype, device=q.device)
        if self._shape[0] == 0:
            return out
        if not self._readable:
            q, k, v = unit_last_stride(q), unit_last_stride(k), unit_last_stride(v)
            slopes = None if slopes is None else slopes.to(torch.float32).contiguous()
            indices = None if indices is None else indices.contiguous()
            seeds = None if seeds is None else seeds.contiguous()
        # What is kept is for tensors aligned as these are, and new ones are aligned.
        if self._again is not None and out.data_ptr() & 15 == 0:
            with on_device(q):
                self._again(q, k, v, out, state, slopes, indices, seeds, scale, *self._rest)
            return out
        tensors = q, k, v, out, state, slopes, indices, seeds
        again = _launches(self._grid, tensors, scale, self._rest, self._options)
        if self._readable and out.data_ptr() & 15 == 0:
            self._again = again
        return out


def _padded(dim: int) -> int:
    return max(16, 1 << (dim - 1).bit_length())


_launches = Launches(attention_step_kernel)
