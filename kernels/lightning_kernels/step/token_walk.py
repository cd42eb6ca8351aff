"""One token against a tile of the state, for every kernel that decodes; states in fp32 or in bf16.

A tile is [BLOCK_D, BLOCK_E] in fp32 registers: all of head_dim and some columns of value_dim, so that a row
of o needs no sum across programs.
"""

import triton
import triton.language as tl

from .rounding import ROUNDS

__all__ = [
    "load_state",
    "load_token",
    "round_state",
    "save_state",
    "store_state",
    "token_decay",
    "visit_token",
    "walk_tokens",
]

_ROUNDS = tl.constexpr(ROUNDS)


@triton.jit  # type: ignore[untyped-decorator]
def token_decay(slope_ptr, head, HAS_DECAY: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return λ of a head as the two numbers that `visit_token` takes.

    state + state·(λ − 1) rounds λ − 1 and not λ, whose error would grow with the number of tokens. Where that
    would cancel, for a decay below a half, it is λ: its error fades as the state does.
    """
    keep = 1.0
    change = 0.0
    if HAS_DECAY:
        slope = tl.cast(tl.load(slope_ptr + head), tl.float32)
        slow = tl.abs(slope) < 0.693147
        x = tl.where(slow, -slope, 0.0)
        # Taylor's series of e^x − 1, whose rest is below 1e-9 of it. An exp in fp64 takes as long as reading
        # the states of one sequence.
        series = x * (1 / 3628800) + 1 / 362880
        series = tl.fma(series, x, 1 / 40320)
        series = tl.fma(series, x, 1 / 5040)
        series = tl.fma(series, x, 1 / 720)
        series = tl.fma(series, x, 1 / 120)
        series = tl.fma(series, x, 1 / 24)
        series = tl.fma(series, x, 1 / 6)
        series = tl.fma(series, x, 0.5)
        series = tl.fma(series, x, 1.0)
        keep = tl.where(slow, 1.0, tl.exp(-slope))
        change = x * series
    return keep, change


@triton.jit  # type: ignore[untyped-decorator]
def visit_token(state, k, v, keep, change, HAS_DECAY: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return λ·state + kᵀ v; k [BLOCK_D] and v [BLOCK_E] are fp32."""
    update = k[:, None] * v[None, :]
    if HAS_DECAY:
        # Fused by name, so that every kernel rounds alike.
        state = tl.fma(state, keep, tl.fma(state, change, update))
    else:
        state += update
    return state


@triton.jit  # type: ignore[untyped-decorator]
def load_state(pointers, d_ok, e_ok, PADDED: tl.constexpr):  # type: ignore[no-untyped-def]
    """Load a tile as fp32, with a mask only where it is needed: it costs instructions."""
    inside = d_ok[:, None] & e_ok[None, :]
    state = tl.load(pointers, mask=inside, other=0.0) if PADDED else tl.load(pointers)
    return tl.cast(state, tl.float32)


@triton.jit  # type: ignore[untyped-decorator]
def random_bits(  # type: ignore[no-untyped-def]
    seed, count, row, first_e, E: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr
):  # fmt: skip
    """Return 16 random bits for each element of a tile [BLOCK_D, BLOCK_E].

    `row` [BLOCK_D] counts the rows of all heads, and `first_e` is the first column, a multiple of 8: a call
    of the generator gives the bits of 8 columns.
    """
    groups: tl.constexpr = (E + 7) // 8
    group = first_e // 8 + tl.arange(0, BLOCK_E // 8)
    place = row[:, None] * groups + group[None, :]  # [BLOCK_D, BLOCK_E / 8]
    zero = place * 0
    a, b, c, d = tl.philox(seed, place, zero + count, zero, zero, _ROUNDS)
    words = tl.join(tl.join(a, b), tl.join(c, d))  # [BLOCK_D, BLOCK_E / 8, 2, 2]
    return tl.reshape(tl.join(words & 0xFFFF, words >> 16), [BLOCK_D, BLOCK_E])


@triton.jit
def round_stochastic_tile(state, bits):  # type: ignore[no-untyped-def]
    """Return an fp32 tile rounded to values of bf16; what is not finite stays."""
    exact = tl.cast(state, tl.uint32, bitcast=True)
    rounded = tl.cast(((exact + bits) >> 16) << 16, tl.float32, bitcast=True)
    return tl.where((exact & 0x7F800000) == 0x7F800000, state, rounded)


@triton.jit  # type: ignore[untyped-decorator]
def round_state(  # type: ignore[no-untyped-def]
    state, pool_ptr, place, seed, count,
    E: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr, STOCHASTIC: tl.constexpr,
):  # fmt: skip
    """Return a tile in the dtype of a pool, rounded to nearest or, if STOCHASTIC, by the bits of a seed.

    `place` is where it is stored: offsets of the tile, which of its rows and columns exist, its rows among
    those of all heads, and its first column.
    """
    _, _, _, row, first_e = place
    if STOCHASTIC:
        state = round_stochastic_tile(state, random_bits(seed, count, row, first_e, E, BLOCK_D, BLOCK_E))
    return tl.cast(state, pool_ptr.dtype.element_ty)


@triton.jit  # type: ignore[untyped-decorator]
def store_state(pointers, state, d_ok, e_ok, PADDED: tl.constexpr):  # type: ignore[no-untyped-def]
    """Store a tile, with a mask only where it is needed."""
    if PADDED:
        tl.store(pointers, state, mask=d_ok[:, None] & e_ok[None, :])
    else:
        tl.store(pointers, state)


@triton.jit
def load_token(pointers, row_d, col_e, d_ok, e_ok):  # type: ignore[no-untyped-def]
    """Load q [BLOCK_D], k [BLOCK_D] and v [BLOCK_E] of a token as fp32."""
    q_ptr, k_ptr, v_ptr = pointers
    q = tl.cast(tl.load(q_ptr + row_d, mask=d_ok, other=0.0), tl.float32)
    k = tl.cast(tl.load(k_ptr + row_d, mask=d_ok, other=0.0), tl.float32)
    v = tl.cast(tl.load(v_ptr + col_e, mask=e_ok, other=0.0), tl.float32)
    return q, k, v


@triton.jit  # type: ignore[untyped-decorator]
def walk_tokens(  # type: ignore[no-untyped-def]
    pointers, steps, columns, state, n, decay, scale, HAS_DECAY: tl.constexpr, HAS_OUTPUT: tl.constexpr
):  # fmt: skip
    """Take a tile through `n` tokens, with HAS_OUTPUT write as many rows of o, and return the tile.

    `pointers` are those of the first token in q, k, v and o, `steps` from a token to the next, `columns` the
    rows and columns of the tile and which of them exist, and `decay` is of `token_decay`.
    """
    q_ptr, k_ptr, v_ptr, o_ptr = pointers
    q_step, k_step, v_step, o_step = steps
    row_d, col_e, d_ok, e_ok = columns
    keep, change = decay
    some = n > 0
    q, k, v = load_token((q_ptr, k_ptr, v_ptr), row_d, col_e, d_ok & some, e_ok & some)
    for t in range(n):
        token = tl.cast(t, tl.int64)
        exists = token + 1 < n  # the next token is loaded while this one is computed
        next_q, next_k, next_v = load_token(
            (q_ptr + (token + 1) * q_step, k_ptr + (token + 1) * k_step, v_ptr + (token + 1) * v_step),
            row_d, col_e, d_ok & exists, e_ok & exists,
        )  # fmt: skip
        state = visit_token(state, k, v, keep, change, HAS_DECAY)
        if HAS_OUTPUT:
            o = tl.sum(state * q[:, None], axis=0) * scale  # [BLOCK_E]
            tl.store(o_ptr + token * o_step + col_e, tl.cast(o, o_ptr.dtype.element_ty), mask=e_ok)
        q, k, v = next_q, next_k, next_v
    return state


@triton.jit  # type: ignore[untyped-decorator]
def save_state(  # type: ignore[no-untyped-def]
    state, pool_ptr, slot, slot_stride, place, seed, count,
    E: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr, PADDED: tl.constexpr,
    STOCHASTIC: tl.constexpr,
):  # fmt: skip
    """Store a tile [BLOCK_D, BLOCK_E] into a slot of the pool, rounded, unless that is below 0.

    `place`, `seed` and `count` are those of `round_state`.
    """
    if slot >= 0:
        rounded = round_state(state, pool_ptr, place, seed, count, E, BLOCK_D, BLOCK_E, STOCHASTIC)
        tile, d_ok, e_ok, _, _ = place
        store_state(pool_ptr + tl.cast(slot, tl.int64) * slot_stride + tile, rounded, d_ok, e_ok, PADDED)
