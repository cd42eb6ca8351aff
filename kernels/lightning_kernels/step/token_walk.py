"""One token against a tile of the state, for every kernel that decodes; states in fp32 or in bf16.

A tile is [BLOCK_D, BLOCK_E] in fp32 registers: all of head_dim and some columns of value_dim, so that a row
of o needs no sum across programs.
"""

import triton
import triton.language as tl

__all__ = ["load_state", "store_state", "token_decay", "visit_token"]


@triton.jit  # type: ignore[untyped-decorator]
def token_decay(slope_ptr, head, HAS_DECAY: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return λ of a head as the two numbers that `visit_token` takes.

    state + state·(λ − 1) rounds λ − 1 and not λ, whose error would grow with the number of tokens. Where that
    would cancel, for a steep decay, it is λ and what its rounding left over.
    """
    keep = 1.0
    change = 0.0
    if HAS_DECAY:
        exact_decay = tl.exp(-tl.cast(tl.load(slope_ptr + head), tl.float64))
        keep = tl.where(exact_decay > 0.5, 1.0, tl.cast(exact_decay, tl.float32))
        change = tl.cast(exact_decay - keep, tl.float32)
    return keep, change


@triton.jit  # type: ignore[untyped-decorator]
def visit_token(state, k, v, keep, change, HAS_DECAY: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return λ·state + kᵀ v; k [BLOCK_D] and v [BLOCK_E] are fp32."""
    update = k[:, None] * v[None, :]
    if HAS_DECAY:
        state = state * keep + (state * change + update)
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
def store_state(pointers, state, d_ok, e_ok, PADDED: tl.constexpr):  # type: ignore[no-untyped-def]
    """Store a tile in the dtype of the pointers, rounded to nearest."""
    state = tl.cast(state, pointers.dtype.element_ty)
    if PADDED:
        tl.store(pointers, state, mask=d_ok[:, None] & e_ok[None, :])
    else:
        tl.store(pointers, state)
