"""Lightning Attention-2 in one pass over the sequence.

Tokens are counted in the order of visits, from the first one on or in reverse from the last one on. For a
block of B tokens with positions i, j in 0…B−1, λ = exp(−s) and the state KV entering the block:

    O  = scale·[(Q Kᵀ) ∘ M] V + r∘Q·KV,    M_ij = λ^(i−j) for i ≥ j, else 0
    KV ← λ^B KV + (w∘K)ᵀ V

    forward:  r_i = scale·λ^(i+1),  w_j = λ^(B−1−j)
    reverse:  r_i = λ^i,            w_j = scale·λ^(B−j)

so that a state that enters in reverse has its full weight at the token that is visited first. The last
block that is visited may be shorter: B is then the number of its tokens in λ^B and w.

All of it is computed transposed, with the state as KVᵀ [value_dim, head_dim] in fp32 registers:

    Pᵀ = (K Qᵀ) ∘ Mᵀ,    Oᵀ = (KVᵀ Qᵀ) ∘ r + Vᵀ Pᵀ,    KVᵀ ← λ^B KVᵀ + (Vᵀ ∘ w) K

so that the rounded state and the weighted Vᵀ are first operands of a dot and never leave the registers.
Pᵀ comes from its own dot: `tl.trans` of an accumulator that feeds a dot is miscompiled on Hopper by
Triton 3.4 to 3.7.0.
"""

import triton
import triton.language as tl
from torch import Tensor

from ..common.allocate import unit_last_stride
from ..common.call import Call, Gradients, Upstream
from ..common.core import core_backward, core_forward
from ..common.launch import Launches, check_device
from .tiles import CATCH_UP, STEEPEST, lightning2_tiles, shared_limit

__all__ = ["backward", "check_runnable", "forward", "linear_attention"]

_CATCH_UP = tl.constexpr(CATCH_UP)
_STEEPEST = tl.constexpr(STEEPEST)


@triton.jit  # type: ignore[untyped-decorator]
def load_tile(pointers, row_ok, col_ok, RAGGED: tl.constexpr, PADDED: tl.constexpr):  # type: ignore[no-untyped-def]
    """Load a tile with no more of a mask than it needs."""
    if RAGGED:
        tile = tl.load(pointers, mask=row_ok & col_ok, other=0.0)
    elif PADDED:
        tile = tl.load(pointers, mask=col_ok, other=0.0)
    else:
        tile = tl.load(pointers)
    return tile


@triton.jit  # type: ignore[untyped-decorator]
def visit_block(  # type: ignore[no-untyped-def]
    tiles, masks, weights, decays, state,
    WEIGHT_READ: tl.constexpr, WEIGHT_WRITE: tl.constexpr, HAS_DECAY: tl.constexpr, RAGGED: tl.constexpr,
    UPDATE: tl.constexpr, PADDED_D: tl.constexpr, PADDED_E: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write one block of o and return the state that leaves it, which takes UPDATE.

    `tiles` are pointers to q, k, v and o, `masks` the rows of q and o, the tokens of k and v and the columns
    that exist, `weights` those of M, of reading and of writing, and `decays` λ^B and what rounding it left
    over.
    """
    q_tile, k_tile, v_tile, o_tile = tiles
    asked, inside, d_ok, e_ok = masks
    weight, read, write = weights
    block_decay, rest_decay = decays
    q_t = load_tile(q_tile, asked[None, :], d_ok[:, None], RAGGED, PADDED_D)  # [BLOCK_D, BLOCK]
    k = load_tile(k_tile, inside[:, None], d_ok[None, :], RAGGED, PADDED_D)  # [BLOCK, BLOCK_D]
    v_t = load_tile(v_tile, inside[None, :], e_ok[:, None], RAGGED, PADDED_E)  # [BLOCK_E, BLOCK]
    low = q_t.dtype

    p_t = tl.cast(tl.dot(k, q_t, input_precision=PRECISION) * weight, low)  # [BLOCK j, BLOCK i]
    o_t = tl.dot(tl.cast(state, low), q_t, input_precision=PRECISION)  # [BLOCK_E, BLOCK]
    if WEIGHT_READ:
        o_t = o_t * read[None, :]
    o_t = tl.cast(tl.dot(v_t, p_t, acc=o_t, input_precision=PRECISION), low)
    if RAGGED:
        tl.store(o_tile, o_t, mask=asked[None, :] & e_ok[:, None])
    elif PADDED_E:
        tl.store(o_tile, o_t, mask=e_ok[:, None])
    else:
        tl.store(o_tile, o_t)

    if UPDATE:
        if WEIGHT_WRITE:
            v_t = tl.cast(v_t * write[None, :], low)
        if low == tl.float32:
            # A block is summed up by itself: token by token, what rounding loses of a large state adds up.
            gain = tl.dot(v_t, k, input_precision=PRECISION)  # [BLOCK_E, BLOCK_D]
            if HAS_DECAY:  # rounded once: what is left over is less than the last digit
                state = tl.fma(state, block_decay, state * rest_decay + gain)
            else:
                state += gain
        else:
            if HAS_DECAY:
                state = state * block_decay
            state = tl.dot(v_t, k, acc=state, input_precision=PRECISION)
    return state


@triton.jit  # type: ignore[untyped-decorator]
def block_weights(  # type: ignore[no-untyped-def]
    slope_ptr, head, scale, BLOCK: tl.constexpr, HAS_DECAY: tl.constexpr, REVERSE: tl.constexpr
):  # fmt: skip
    """Return what `walk_blocks` needs to know of the decay of a head.

    That is the slope, the scale, the weights of the scores [BLOCK j, BLOCK i], of reading and of writing
    [BLOCK], and λ^B in fp64.
    """
    row = tl.arange(0, BLOCK)
    slope = 0.0
    exact_decay = tl.cast(1.0, tl.float64)
    if HAS_DECAY:
        slope = tl.load(slope_ptr + head)
        slope = tl.where(slope > _STEEPEST, _STEEPEST, slope)
        # In fp64, since its error grows with the number of blocks.
        exact_decay = tl.exp(tl.cast(slope, tl.float64) * -BLOCK)
    distance = row[None, :] - row[:, None]
    weight = tl.where(distance >= 0, scale, 0.0)  # [BLOCK j, BLOCK i]
    weight *= tl.exp(tl.minimum(-slope * tl.cast(distance, tl.float32), 0.0))
    if REVERSE:
        read = tl.exp(-slope * row)  # [BLOCK]
        write = scale * tl.exp(-slope * (BLOCK - row))  # [BLOCK]
    else:
        read = scale * tl.exp(-slope * (row + 1))
        write = tl.exp(-slope * (BLOCK - 1 - row))
    return slope, scale, weight, read, write, exact_decay


@triton.jit  # type: ignore[untyped-decorator]
def walk_blocks(  # type: ignore[no-untyped-def]
    pointers, offsets, steps, columns, weights, state, seq_len,
    BLOCK: tl.constexpr, HAS_DECAY: tl.constexpr, REVERSE: tl.constexpr, UPDATE: tl.constexpr,
    PADDED_D: tl.constexpr, PADDED_E: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write `seq_len` rows of o and return the state that leaves them; without UPDATE that does not count.

    `pointers` are those of the first token in q, k, v and o, `offsets` of a tile from there, and `steps` from
    a token to the next; `columns` are those that exist, and `weights` is of `block_weights`.
    """
    q_ptr, k_ptr, v_ptr, o_ptr = pointers
    q_tile, k_tile, v_tile, o_tile = offsets
    q_step, k_step, v_step, o_step = steps
    d_ok, e_ok = columns
    slope, scale, weight, read, write, exact_decay = weights
    WEIGHT_READ: tl.constexpr = HAS_DECAY or not REVERSE
    WEIGHT_WRITE: tl.constexpr = HAS_DECAY or REVERSE
    row = tl.arange(0, BLOCK)
    whole = seq_len // BLOCK
    block_decay = tl.cast(exact_decay, tl.float32)
    rest_decay = tl.cast(exact_decay - block_decay, tl.float32)
    for block in range(whole):
        start = tl.cast(block, tl.int64) * BLOCK
        decay = block_decay
        if HAS_DECAY and q_ptr.dtype.element_ty != tl.float32:
            # In fp32 what rounding left over counts in each block. Here that would cost time: the state
            # catches up with _CATCH_UP blocks at once, or with as many as are left.
            number = tl.cast(block, tl.int32)
            if number % _CATCH_UP == 0:
                decay = block_decay + rest_decay * tl.minimum(whole - number, _CATCH_UP)
        state = visit_block(
            (
                q_ptr + start * q_step + q_tile, k_ptr + start * k_step + k_tile,
                v_ptr + start * v_step + v_tile, o_ptr + start * o_step + o_tile,
            ),
            (row < BLOCK, row < BLOCK, d_ok, e_ok), (weight, read, write), (decay, rest_decay), state,
            WEIGHT_READ, WEIGHT_WRITE, HAS_DECAY, False, True, PADDED_D, PADDED_E, PRECISION,
        )  # fmt: skip
    left = seq_len - whole * BLOCK
    if left > 0:
        start = tl.cast(whole, tl.int64) * BLOCK
        # Rows from `left` on are zeros in v: clamped, their weight is harmless.
        if REVERSE:
            write = scale * tl.exp(tl.minimum(-slope * (left - row), 0.0))
        else:
            write = tl.exp(tl.minimum(-slope * (left - 1 - row), 0.0))
        left_decay = tl.cast(1.0, tl.float64)
        if HAS_DECAY and UPDATE:
            left_decay = tl.exp(tl.cast(slope, tl.float64) * -left)
        decay = tl.cast(left_decay, tl.float32)
        state = visit_block(
            (
                q_ptr + start * q_step + q_tile, k_ptr + start * k_step + k_tile,
                v_ptr + start * v_step + v_tile, o_ptr + start * o_step + o_tile,
            ),
            (row < left, row < left, d_ok, e_ok), (weight, read, write),
            (decay, tl.cast(left_decay - decay, tl.float32)), state,
            WEIGHT_READ, WEIGHT_WRITE, HAS_DECAY, True, UPDATE, PADDED_D, PADDED_E, PRECISION,
        )  # fmt: skip
    return state


@triton.jit  # type: ignore[untyped-decorator]
def clear_rows(  # type: ignore[no-untyped-def]
    o_ptr, step, columns, column_ok, first, end, worker, workers, BLOCK: tl.constexpr
):  # fmt: skip
    """Write zeros to the columns of rows `first` to `end` − 1, as one of `workers` that share the blocks."""
    row64 = tl.cast(tl.arange(0, BLOCK), tl.int64)
    for block in range(worker, tl.cdiv(end - first, BLOCK), workers):
        rows = tl.cast(first, tl.int64) + tl.cast(block, tl.int64) * BLOCK + row64  # [BLOCK]
        tl.store(
            o_ptr + columns[:, None] + rows[None, :] * step,
            tl.zeros([columns.shape[0], BLOCK], dtype=o_ptr.dtype.element_ty),
            mask=(rows < end)[None, :] & column_ok[:, None],
        )


@triton.jit(do_not_specialize=["heads", "seq_len", "scale", "q_group", "k_group", "v_group"])  # type: ignore[untyped-decorator]
def linear_attention_kernel(  # type: ignore[no-untyped-def]
    q_ptr, k_ptr, v_ptr, o_ptr, slope_ptr, initial_ptr, final_ptr, offsets_ptr,
    scale, heads, seq_len, q_group, k_group, v_group,
    q_stride_b, q_stride_h, q_stride_n, k_stride_b, k_stride_h, k_stride_n,
    v_stride_b, v_stride_h, v_stride_n, o_stride_b, o_stride_h, o_stride_n,
    initial_stride_b, initial_stride_h, initial_stride_d, initial_stride_e,
    final_stride_b, final_stride_h, final_stride_d, final_stride_e,
    D: tl.constexpr, E: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    HAS_DECAY: tl.constexpr, HAS_INITIAL: tl.constexpr, HAS_FINAL: tl.constexpr, PACKED: tl.constexpr,
    REVERSE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program owns BLOCK_E columns of v of one (sequence, head) and visits all its blocks of tokens."""
    tiles_e: tl.constexpr = (E + BLOCK_E - 1) // BLOCK_E

    pid = tl.program_id(0)
    first_e = (pid % tiles_e) * BLOCK_E
    head = (pid // tiles_e) % heads
    head64 = tl.cast(head, tl.int64)
    row = tl.arange(0, BLOCK)
    row64 = tl.cast(row, tl.int64)
    col_e = first_e + tl.arange(0, BLOCK_E)
    e_ok = col_e < E
    sequence = tl.cast(pid // tiles_e // heads, tl.int64)
    tokens = seq_len
    out_ptr = o_ptr + head64 * o_stride_h
    batch = sequence
    first = tl.zeros([], dtype=tl.int64)
    if PACKED:
        batch = tl.zeros([], dtype=tl.int64)
        first = tl.cast(tl.load(offsets_ptr + sequence), tl.int64)
        seq_len = tl.cast(tl.load(offsets_ptr + sequence + 1) - first, tl.int32)
    q_step, k_step, v_step, o_step = q_stride_n, k_stride_n, v_stride_n, o_stride_n
    if REVERSE:
        q_step, k_step, v_step, o_step = -q_stride_n, -k_stride_n, -v_stride_n, -o_stride_n
        first += seq_len - 1
    q_ptr += batch * q_stride_b + tl.cast(head // q_group, tl.int64) * q_stride_h + first * q_stride_n
    k_ptr += batch * k_stride_b + tl.cast(head // k_group, tl.int64) * k_stride_h + first * k_stride_n
    v_ptr += batch * v_stride_b + tl.cast(head // v_group, tl.int64) * v_stride_h + first * v_stride_n
    o_ptr += batch * o_stride_b + head64 * o_stride_h + first * o_stride_n

    col_d = tl.arange(0, BLOCK_D)
    d_ok = col_d < D
    state_ok = e_ok[:, None] & d_ok[None, :]
    q_tile = col_d[:, None] + row64[None, :] * q_step  # [BLOCK_D, BLOCK]
    k_tile = row64[:, None] * k_step + col_d[None, :]  # [BLOCK, BLOCK_D]
    v_tile = col_e[:, None] + row64[None, :] * v_step  # [BLOCK_E, BLOCK]
    o_tile = col_e[:, None] + row64[None, :] * o_step  # [BLOCK_E, BLOCK]

    weights = block_weights(slope_ptr, head, scale, BLOCK, HAS_DECAY, REVERSE)
    if HAS_INITIAL:
        initial_ptr += sequence * initial_stride_b + head64 * initial_stride_h
        initial_tile = col_e[:, None] * initial_stride_e + col_d[None, :] * initial_stride_d
        state = tl.cast(tl.load(initial_ptr + initial_tile, mask=state_ok, other=0.0), tl.float32)
    else:
        state = tl.zeros([BLOCK_E, BLOCK_D], dtype=tl.float32)
    state = walk_blocks(
        (q_ptr, k_ptr, v_ptr, o_ptr), (q_tile, k_tile, v_tile, o_tile), (q_step, k_step, v_step, o_step),
        (d_ok, e_ok), weights, state, seq_len,
        BLOCK, HAS_DECAY, REVERSE, HAS_FINAL, D != BLOCK_D, E % BLOCK_E != 0, PRECISION,
    )  # fmt: skip
    if HAS_FINAL:
        final_ptr += sequence * final_stride_b + head64 * final_stride_h
        final_tile = col_e[:, None] * final_stride_e + col_d[None, :] * final_stride_d
        tl.store(final_ptr + final_tile, state, mask=state_ok)
    if PACKED:  # the rows of no sequence, which the programs of a head and columns share
        sequences = tl.num_programs(0) // (tiles_e * heads)
        end = tl.load(offsets_ptr + sequences)
        clear_rows(
            out_ptr, o_stride_n, col_e, e_ok, end, tokens, tl.cast(sequence, tl.int32), sequences, BLOCK
        )


def check_runnable(tensor: Tensor) -> None:
    """Raise ValueError unless the kernel can run where the tensor is."""
    check_device(tensor, linear_attention_kernel, "lightning_attn2")


_NO_STRIDES = (0, 0, 0, 0)
_launches = Launches(linear_attention_kernel)


def linear_attention(call: Call, out: Tensor, final: Tensor | None, *, reverse: bool) -> None:
    """Launch the kernel; a `Core`."""
    q, k, v, slopes, initial, offsets, scale, _ = call
    q, k, v = unit_last_stride(q), unit_last_stride(k), unit_last_stride(v)
    b, heads, n, e = out.shape
    d = q.shape[3]
    sequences = b if offsets is None else offsets.shape[0] - 1
    if sequences == 0 or heads == 0:
        return
    tiles = lightning2_tiles(d, e, q.dtype, shared_limit(q.get_device()))
    _launches(
        (sequences * heads * tiles.split_e, 1, 1),
        (q, k, v, out, slopes, initial, final, offsets),
        scale,
        (
            heads, n, heads // q.shape[1], heads // k.shape[1], heads // v.shape[1],
            *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3],
            *(_NO_STRIDES if initial is None else initial.stride()),
            *(_NO_STRIDES if final is None else final.stride()),
            d, e, tiles.block, tiles.block_d, tiles.block_e, slopes is not None, initial is not None,
            final is not None, offsets is not None, reverse, tiles.precision,
        ),
        (("num_warps", tiles.warps), ("num_stages", tiles.stages)),
    )  # fmt: skip


def forward(call: Call) -> tuple[Tensor, Tensor | None]:
    """Compute o and, where `call.return_state`, the final state."""
    return core_forward(linear_attention, call.for_kernels())


def backward(upstream: Upstream, call: Call) -> Gradients:
    """Compute the gradients in `upstream.needs`."""
    return core_backward(linear_attention, upstream, call.for_kernels())
