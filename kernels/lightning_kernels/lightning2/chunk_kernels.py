"""States after chunks of tokens and their gradients, in Triton: every chunk by itself, then a pass over all.

With X_c the state after chunk c of T_c tokens, t counted from the first of them, and λ = exp(−s):

    E_c = Σ_t λ^(T_c−1−t) k_tᵀ v_t                   `chunk_sums_kernel`, every chunk at once
    X_c = λ^(T_c) X_{c−1} + E_c                      `pass_states_kernel`, chunk after chunk

and with dX_c the gradient of X_c itself, G_c what reaches it in all:

    G_c = dX_c + λ^(T_{c+1}) G_{c+1}                 `pass_grads_kernel`, from the last chunk on
    dk_t = λ^(T_c−1−t) v_t G_cᵀ,  dv_t = λ^(T_c−1−t) k_t G_c     `chunk_grads_kernel`, every chunk at once

In reverse, where only the state that leaves the first token is wanted, weights count from there:

    E_c = scale Σ_t λ^(t+1) k_tᵀ v_t,                X_c = λ^(T_c) X_{c+1} + E_c

A chunk has a place [b, heads, places, head_dim, value_dim]. Packed sequence i has those from
cu_seqlens[i] // every + i on, of which there are always enough: no place belongs to two sequences.
"""

import triton
import triton.language as tl

from .cuts import WINDOW
from .portable import load_tile
from .tiles import STEEPEST

__all__ = ["chunk_grads_kernel", "chunk_sums_kernel", "pass_grads_kernel", "pass_states_kernel"]

_STEEPEST = tl.constexpr(STEEPEST)
_WINDOW = tl.constexpr(WINDOW)


@triton.jit  # type: ignore[untyped-decorator]
def load_slope(slope_ptr, head, HAS_DECAY: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return the slope of a head, finite; 0 where there is no decay."""
    slope = 0.0
    if HAS_DECAY:
        slope = tl.load(slope_ptr + head)
        slope = tl.where(slope > _STEEPEST, _STEEPEST, slope)
    return slope


@triton.jit
def split_decay(slope, tokens):  # type: ignore[no-untyped-def]
    """Return λ^tokens as two numbers: X decays to X·keep + (X·change + what is added).

    X + X·(λ − 1) rounds λ − 1 and not λ, whose error would add up over chunks. Where that would cancel, for a
    steep decay, it is λ and what its rounding left over.
    """
    exact = tl.exp(tl.cast(slope, tl.float64) * -tl.cast(tokens, tl.float64))
    keep = tl.where(exact > 0.5, 1.0, tl.cast(exact, tl.float32))
    return keep, tl.cast(exact - keep, tl.float32)


@triton.jit
def chunk_counts(slope, distance):  # type: ignore[no-untyped-def]
    """Return whether a chunk that ends `distance` tokens before the last state counts in it."""
    return slope * tl.cast(distance, tl.float32) <= _WINDOW


@triton.jit  # type: ignore[untyped-decorator]
def find_chunk(offsets_ptr, place, sequences, seq_len, every, PACKED: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return the first token of the chunk in a place, and how many it has: 0 where there is none.

    Two more say how many tokens of its sequence come before it and after it.
    """
    begin = place * 0
    if PACKED:
        low = place * 0
        high = low + sequences
        while high - low > 1:
            middle = (low + high) // 2
            if tl.load(offsets_ptr + middle) // every + middle <= place:
                low = middle
            else:
                high = middle
        begin = tl.load(offsets_ptr + low)
        first = begin + (place - begin // every - low) * every
        seq_len = tl.load(offsets_ptr + low + 1)
    else:
        first = place * every
    tokens = tl.maximum(tl.minimum(seq_len - first, every), 0)
    return tl.cast(first, tl.int64), tokens, first - begin, seq_len - first - tokens


@triton.jit  # type: ignore[untyped-decorator]
def find_places(offsets_ptr, sequence, seq_len, every, PACKED: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return the first place of a sequence, how many chunks it has, and the tokens of the last of them."""
    place = sequence * 0
    if PACKED:
        begin = tl.load(offsets_ptr + sequence)
        place = begin // every + sequence
        seq_len = tl.load(offsets_ptr + sequence + 1) - begin
    chunks = tl.cdiv(seq_len, every)
    return place, chunks, seq_len - (chunks - 1) * every


@triton.jit(do_not_specialize=["scale", "heads", "seq_len", "every", "places", "sequences", "group"])  # type: ignore[untyped-decorator]
def chunk_sums_kernel(  # type: ignore[no-untyped-def]
    k_ptr, v_ptr, sums_ptr, slope_ptr, offsets_ptr, scale, heads, seq_len, every, places, sequences, group,
    k_stride_b, k_stride_h, k_stride_n, v_stride_b, v_stride_h, v_stride_n,
    D: tl.constexpr, E: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    HAS_DECAY: tl.constexpr, PACKED: tl.constexpr, LAST: tl.constexpr, REVERSE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One program sums up BLOCK_E columns of one chunk of one head; a place without a chunk gets zeros.

    Where only the LAST state is wanted, tokens too far from it to count (`cuts.WINDOW`) are not read, and
    chunks of such tokens, and places without a chunk, not written.
    """
    tiles_e: tl.constexpr = (E + BLOCK_E - 1) // BLOCK_E
    pid = tl.program_id(0)
    first_e = (pid % tiles_e) * BLOCK_E
    place = pid // tiles_e % places
    head = pid // tiles_e // places % heads
    batch = tl.cast(pid // tiles_e // places // heads, tl.int64)
    first, tokens, before, after = find_chunk(offsets_ptr, place, sequences, seq_len, every, PACKED)
    slope = load_slope(slope_ptr, head, HAS_DECAY)
    if LAST and HAS_DECAY:
        distance = before if REVERSE else after
        reach = (1.0 / tl.maximum(slope, 1e-30)) * _WINDOW - tl.cast(distance, tl.float32)
        blocks = tl.cast(tl.minimum(tl.maximum(reach, 0.0), 2.0**30), tl.int32) // BLOCK + 1
        counting = tl.where(chunk_counts(slope, distance), tl.minimum(tokens, blocks * BLOCK), 0)
        if not REVERSE:
            first += tokens - counting
        tokens = counting

    row = tl.arange(0, BLOCK)
    row64 = tl.cast(row, tl.int64)
    col_d = tl.arange(0, BLOCK_D)
    col_e = first_e + tl.arange(0, BLOCK_E)
    d_ok = col_d < D
    e_ok = col_e < E
    kv_head = tl.cast(head // group, tl.int64)
    k_tile = k_ptr + batch * k_stride_b + kv_head * k_stride_h + first * k_stride_n
    k_tile = k_tile + row64[:, None] * k_stride_n + col_d[None, :]  # [BLOCK, BLOCK_D]
    v_tile = v_ptr + batch * v_stride_b + kv_head * v_stride_h + first * v_stride_n
    v_tile = v_tile + col_e[:, None] + row64[None, :] * v_stride_n  # [BLOCK_E, BLOCK]
    weight = tl.exp(-slope * ((row + 1) if REVERSE else (BLOCK - 1 - row)))
    state = tl.zeros([BLOCK_E, BLOCK_D], dtype=tl.float32)
    whole = tokens // BLOCK
    for block in range(whole):
        start = tl.cast(block, tl.int64) * BLOCK
        k = load_tile(k_tile + start * k_stride_n, row[:, None] < BLOCK, d_ok[None, :], False, D != BLOCK_D)
        v_t = load_tile(
            v_tile + start * v_stride_n, row[None, :] < BLOCK, e_ok[:, None], False, E % BLOCK_E != 0
        )
        if HAS_DECAY:
            v_t = tl.cast(v_t * weight[None, :], k.dtype)
            apart = (block * BLOCK) if REVERSE else (tokens - (block + 1) * BLOCK)
            state += tl.dot(v_t, k, input_precision=PRECISION) * tl.exp(-slope * tl.cast(apart, tl.float32))
        else:
            state = tl.dot(v_t, k, acc=state, input_precision=PRECISION)
    left = tokens - whole * BLOCK
    if left > 0:
        start = tl.cast(whole, tl.int64) * BLOCK
        k = load_tile(k_tile + start * k_stride_n, row[:, None] < left, d_ok[None, :], True, True)
        v_t = load_tile(v_tile + start * v_stride_n, row[None, :] < left, e_ok[:, None], True, True)
        if HAS_DECAY:
            # Rows from `left` on are zeros: clamped, their weight is harmless.
            ragged = weight if REVERSE else tl.exp(tl.minimum(-slope * (left - 1 - row), 0.0))
            v_t = tl.cast(v_t * ragged[None, :], k.dtype)
        part = tl.dot(v_t, k, input_precision=PRECISION)
        if HAS_DECAY and REVERSE:
            part *= tl.exp(-slope * tl.cast(whole * BLOCK, tl.float32))
        state += part
    if REVERSE:
        state *= scale
    sums_ptr += ((batch * heads + head) * places + place) * (D * E)
    inside = e_ok[:, None] & d_ok[None, :]
    if LAST:
        inside = inside & (tokens > 0)
    tl.store(sums_ptr + col_e[:, None] + col_d[None, :] * E, state, mask=inside)


@triton.jit(do_not_specialize=["heads", "seq_len", "every", "places"])  # type: ignore[untyped-decorator]
def pass_states_kernel(  # type: ignore[no-untyped-def]
    sums_ptr, initial_ptr, final_ptr, slope_ptr, offsets_ptr, heads, seq_len, every, places,
    SIZE: tl.constexpr, TILE: tl.constexpr, HAS_DECAY: tl.constexpr, HAS_INITIAL: tl.constexpr,
    HAS_FINAL: tl.constexpr, PACKED: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """One program passes TILE elements of the state of one head through the chunks of one sequence.

    States take the places of the sums, or only the last one is written, to `final_ptr`, and chunks that do
    not count in it are not read.
    """
    tiles: tl.constexpr = (SIZE + TILE - 1) // TILE
    pid = tl.program_id(0)
    element = pid % tiles * TILE + tl.arange(0, TILE)
    inside = element < SIZE
    sequence_head = tl.cast(pid // tiles, tl.int64)
    head = pid // tiles % heads
    sequence = pid // tiles // heads
    place, chunks, last = find_places(offsets_ptr, sequence, seq_len, every, PACKED)
    slope = load_slope(slope_ptr, head, HAS_DECAY)
    keep, change = split_decay(slope, every)
    last_keep, last_change = split_decay(slope, last)
    row = head if PACKED else sequence_head
    at = sums_ptr + (tl.cast(row, tl.int64) * places + place) * SIZE + element
    state = tl.zeros([TILE], dtype=tl.float32)
    if HAS_INITIAL:
        state = tl.load(initial_ptr + sequence_head * SIZE + element, mask=inside, other=0.0)
    for turn in range(chunks):
        chunk = (chunks - 1 - turn) if REVERSE else turn
        of_chunk = at + tl.cast(chunk, tl.int64) * SIZE
        read = SIZE
        if HAS_FINAL and HAS_DECAY:
            distance = chunk * every if REVERSE else tl.maximum((chunks - 2 - chunk) * every + last, 0)
            read = tl.where(chunk_counts(slope, distance), SIZE, 0)
        total = tl.load(of_chunk, mask=element < read, other=0.0)
        if HAS_DECAY:
            kept = tl.where(chunk == chunks - 1, last_keep, keep)
            state = state * kept + (state * tl.where(chunk == chunks - 1, last_change, change) + total)
        else:
            state += total
        if not HAS_FINAL:
            tl.store(of_chunk, state, mask=inside)
    if HAS_FINAL:
        tl.store(final_ptr + sequence_head * SIZE + element, state, mask=inside)


@triton.jit(do_not_specialize=["heads", "seq_len", "every", "places"])  # type: ignore[untyped-decorator]
def pass_grads_kernel(  # type: ignore[no-untyped-def]
    grad_ptr, total_ptr, initial_ptr, slope_ptr, offsets_ptr, heads, seq_len, every, places,
    SIZE: tl.constexpr, TILE: tl.constexpr, HAS_DECAY: tl.constexpr, HAS_INITIAL: tl.constexpr,
    FINAL: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """Write what reaches the state after each chunk to its place, and the gradient of the initial state.

    `grad_ptr` has the gradients of the states in their places, or where FINAL that of each last one.
    """
    tiles: tl.constexpr = (SIZE + TILE - 1) // TILE
    pid = tl.program_id(0)
    element = pid % tiles * TILE + tl.arange(0, TILE)
    inside = element < SIZE
    sequence_head = tl.cast(pid // tiles, tl.int64)
    head = pid // tiles % heads
    sequence = pid // tiles // heads
    place, chunks, last = find_places(offsets_ptr, sequence, seq_len, every, PACKED)
    slope = load_slope(slope_ptr, head, HAS_DECAY)
    keep, change = split_decay(slope, every)
    last_keep, last_change = split_decay(slope, last)
    row = head if PACKED else sequence_head
    at = (tl.cast(row, tl.int64) * places + place) * SIZE + element
    grad = tl.zeros([TILE], dtype=tl.float32)
    if FINAL:
        grad = tl.load(grad_ptr + sequence_head * SIZE + element, mask=inside, other=0.0)
    for back in range(chunks):
        of_chunk = at + tl.cast(chunks - 1 - back, tl.int64) * SIZE
        if not FINAL:
            grad += tl.load(grad_ptr + of_chunk, mask=inside, other=0.0)
        tl.store(total_ptr + of_chunk, grad, mask=inside)
        if HAS_DECAY:
            kept = tl.where(back == 0, last_keep, keep)
            grad = grad * kept + grad * tl.where(back == 0, last_change, change)
    if HAS_INITIAL:
        tl.store(initial_ptr + sequence_head * SIZE + element, grad, mask=inside)


@triton.jit(do_not_specialize=["heads", "seq_len", "every", "places", "sequences", "group"])  # type: ignore[untyped-decorator]
def chunk_grads_kernel(  # type: ignore[no-untyped-def]
    x_ptr, grad_ptr, out_ptr, slope_ptr, offsets_ptr, heads, seq_len, every, places, sequences, group,
    x_stride_b, x_stride_h, x_stride_n, out_stride_b, out_stride_h, out_stride_n,
    grad_stride_in, grad_stride_out,
    IN: tl.constexpr, OUT: tl.constexpr, BLOCK: tl.constexpr, BLOCK_IN: tl.constexpr, BLOCK_OUT: tl.constexpr,
    HAS_DECAY: tl.constexpr, PACKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program writes BLOCK_OUT columns of the gradients of the tokens of one chunk and head.

    out_t = λ^(T−1−t) x_t G, for dk of v and G transposed, for dv of k and G.
    """
    tiles: tl.constexpr = (OUT + BLOCK_OUT - 1) // BLOCK_OUT
    pid = tl.program_id(0)
    column = pid % tiles * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    place = pid // tiles % places
    head = pid // tiles // places % heads
    batch = tl.cast(pid // tiles // places // heads, tl.int64)
    first, tokens, _, _ = find_chunk(offsets_ptr, place, sequences, seq_len, every, PACKED)
    slope = load_slope(slope_ptr, head, HAS_DECAY)

    row = tl.arange(0, BLOCK)
    row64 = tl.cast(row, tl.int64)
    inner = tl.arange(0, BLOCK_IN)
    in_ok = inner < IN
    out_ok = column < OUT
    grad_ptr += ((batch * heads + head) * places + place) * (IN * OUT)
    grad = tl.load(
        grad_ptr + inner[:, None] * grad_stride_in + column[None, :] * grad_stride_out,
        mask=in_ok[:, None] & out_ok[None, :], other=0.0,
    )  # fmt: skip
    grad = tl.cast(grad, x_ptr.dtype.element_ty)  # [BLOCK_IN, BLOCK_OUT]
    x_tile = x_ptr + batch * x_stride_b + tl.cast(head // group, tl.int64) * x_stride_h + first * x_stride_n
    x_tile = x_tile + row64[:, None] * x_stride_n + inner[None, :]  # [BLOCK, BLOCK_IN]
    out_tile = out_ptr + batch * out_stride_b + tl.cast(head, tl.int64) * out_stride_h + first * out_stride_n
    out_tile = out_tile + row64[:, None] * out_stride_n + column[None, :]  # [BLOCK, BLOCK_OUT]
    for block in range(tl.cdiv(tokens, BLOCK)):
        start = tl.cast(block, tl.int64) * BLOCK
        position = tl.cast(start, tl.int32) + row
        x = load_tile(x_tile + start * x_stride_n, (position < tokens)[:, None], in_ok[None, :], True, True)
        out = tl.dot(x, grad, input_precision=PRECISION)
        if HAS_DECAY:
            out *= tl.exp(tl.minimum(-slope * tl.cast(tokens - 1 - position, tl.float32), 0.0))[:, None]
        tl.store(
            out_tile + start * out_stride_n,
            tl.cast(out, out_ptr.dtype.element_ty),
            mask=(position < tokens)[:, None] & out_ok[None, :],
        )
