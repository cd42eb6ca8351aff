"""GateLoop's recurrence with a gate per token and channel, real or complex, as a parallel scan.

    h_t = a_t·h_{t−1} + k_t·v_t,    o_t = q_t·Re h_t,    a_t = exp(g_t + iφ_t)

Backward, with G_t the gradient of h_t, itself a scan from the last token to the first, and u_t = a_t·h_{t−1}:

    G_t = q_t·do_t + conj(a_{t+1})·G_{t+1}
    dq = do·Re h,   dk = v·Re G,   dv = k·Re G,   dg = Re(conj(G)·u),   dφ = −Im(conj(G)·u)

Three launches each way: every tile of tokens is scanned to what it does to a state that enters it, one scan
over tiles turns that into the states that enter, and every tile is scanned again to its results. The forward
pass keeps the entering states, one per 32 tokens, for the backward pass.

Tensors are [sequences, tokens, channels] and contiguous; a program owns one tile of tokens and channels of
one sequence.
"""

from collections.abc import Iterable

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.launch import interpreted, on_device

__all__ = ["backward", "check_runnable", "forward"]

_TOKENS = 32
_CHANNELS = {False: 64, True: 32}
"""The most channels of a tile, for real and complex gates: as many as registers hold."""
_ENTER_TILES, _ENTER_CHANNELS = 128, 16
"""Tiles and channels of a step of the scan over tiles, whose steps wait for each other: few and long."""
_WARPS = 4


@triton.jit
def compose(a_1, x_1, a_2, x_2):  # type: ignore[no-untyped-def]
    """Apply h ← a_1·h + x_1 and then h ← a_2·h + x_2."""
    return a_1 * a_2, a_2 * x_1 + x_2


@triton.jit
def compose_complex(ar_1, ai_1, xr_1, xi_1, ar_2, ai_2, xr_2, xi_2):  # type: ignore[no-untyped-def]
    """Compose as `compose` does, with complex a and x as real and imaginary parts."""
    return (
        ar_1 * ar_2 - ai_1 * ai_2,
        ar_1 * ai_2 + ai_1 * ar_2,
        ar_2 * xr_1 - ai_2 * xi_1 + xr_2,
        ar_2 * xi_1 + ai_2 * xr_1 + xi_2,
    )


@triton.jit  # type: ignore[untyped-decorator]
def scan(ar, ai, xr, xi, REVERSE: tl.constexpr, COMPLEX: tl.constexpr):  # type: ignore[no-untyped-def]
    """Scan along tokens: the products of a, and the states that follow from none."""
    if COMPLEX:
        ar, ai, xr, xi = tl.associative_scan((ar, ai, xr, xi), 0, compose_complex, reverse=REVERSE)
    else:
        ar, xr = tl.associative_scan((ar, xr), 0, compose, reverse=REVERSE)
    return ar, ai, xr, xi


@triton.jit  # type: ignore[untyped-decorator]
def load_gate(g_ptr, phase_ptr, at, ok, COMPLEX: tl.constexpr):  # type: ignore[no-untyped-def]
    """Load a, real and imaginary part; 1 where there is no token."""
    size = tl.exp(tl.cast(tl.load(g_ptr + at, mask=ok, other=0.0), tl.float32))
    if COMPLEX:
        phase = tl.cast(tl.load(phase_ptr + at, mask=ok, other=0.0), tl.float32)
        real, imaginary = size * tl.cos(phase), size * tl.sin(phase)
    else:
        real, imaginary = size, size * 0.0
    return real, imaginary


@triton.jit
def load_product(x_ptr, y_ptr, at, ok):  # type: ignore[no-untyped-def]
    """Load x·y in fp32; 0 where there is no token."""
    x = tl.cast(tl.load(x_ptr + at, mask=ok, other=0.0), tl.float32)
    return x * tl.cast(tl.load(y_ptr + at, mask=ok, other=0.0), tl.float32)


@triton.jit(do_not_specialize=["tokens"])  # type: ignore[untyped-decorator]
def tile_kernel(  # type: ignore[no-untyped-def]
    x_ptr, y_ptr, g_ptr, phase_ptr, sum_ptr, tokens, channels, tiles, parts_stride,
    REVERSE: tl.constexpr, COMPLEX: tl.constexpr, T: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """One program writes what its tile does to a state: the product of a, and what follows from no state.

    x and y are k and v; in reverse they are q and do, and a is that of the next token.
    """
    blocks = tl.cdiv(channels, C)
    pid = tl.program_id(0)
    tile = pid // blocks % tiles
    sequence = tl.cast(pid // blocks // tiles, tl.int64)
    row = tl.arange(0, T)
    token = tile * T + row
    col = pid % blocks * C + tl.arange(0, C)
    at = sequence * tokens * channels + tl.cast(token, tl.int64)[:, None] * channels + col[None, :]  # [T, C]
    ok = (token < tokens)[:, None] & (col < channels)[None, :]
    xr = load_product(x_ptr, y_ptr, at, ok)
    if REVERSE:
        ok &= (token < tokens - 1)[:, None]
        ar, ai = load_gate(g_ptr, phase_ptr, at + channels, ok, COMPLEX)
        ai = -ai
    else:
        ar, ai = load_gate(g_ptr, phase_ptr, at, ok, COMPLEX)
    ar, ai, xr, xi = scan(ar, ai, xr, xr * 0.0, REVERSE, COMPLEX)
    last = (row == (0 if REVERSE else T - 1))[:, None]
    sum_ptr += (sequence * tiles + tile) * channels + col
    ok_col = col < channels
    tl.store(sum_ptr, tl.sum(tl.where(last, ar, 0.0), axis=0), mask=ok_col)
    tl.store(sum_ptr + parts_stride, tl.sum(tl.where(last, xr, 0.0), axis=0), mask=ok_col)
    if COMPLEX:
        tl.store(sum_ptr + 2 * parts_stride, tl.sum(tl.where(last, ai, 0.0), axis=0), mask=ok_col)
        tl.store(sum_ptr + 3 * parts_stride, tl.sum(tl.where(last, xi, 0.0), axis=0), mask=ok_col)


@triton.jit(do_not_specialize=["tiles"])  # type: ignore[untyped-decorator]
def enter_kernel(  # type: ignore[no-untyped-def]
    sum_ptr, state_ptr, channels, tiles, parts_stride,
    REVERSE: tl.constexpr, COMPLEX: tl.constexpr, T: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """One program walks the tiles of a sequence, T at a time, and writes the state that enters each."""
    blocks = tl.cdiv(channels, C)
    pid = tl.program_id(0)
    sequence = tl.cast(pid // blocks, tl.int64)
    col = pid % blocks * C + tl.arange(0, C)
    row = tl.arange(0, T)
    first = (row == 0)[:, None]
    ok_col = (col < channels)[None, :]
    # Loads and stores of one program that touch other addresses: what leaves a tile enters the next one.
    hr = tl.zeros([C], tl.float32)
    hi = tl.zeros([C], tl.float32)
    for start in range(0, tiles, T):
        step = start + row
        tile = tiles - 1 - step if REVERSE else step
        before = tile + 1 if REVERSE else tile - 1
        at = (sequence * tiles + tile)[:, None] * channels + col[None, :]  # [T, C]
        from_at = (sequence * tiles + before)[:, None] * channels + col[None, :]
        ok = (step < tiles)[:, None] & ok_col
        # The first tile of the walk has none before it; the first of this block starts from h.
        ok_from = ok & (step > 0)[:, None]
        ar = tl.load(sum_ptr + from_at, mask=ok_from, other=0.0)
        xr = tl.load(sum_ptr + parts_stride + from_at, mask=ok_from, other=0.0)
        ai = ar * 0.0
        xi = xr * 0.0
        if COMPLEX:
            ai = tl.load(sum_ptr + 2 * parts_stride + from_at, mask=ok_from, other=0.0)
            xi = tl.load(sum_ptr + 3 * parts_stride + from_at, mask=ok_from, other=0.0)
        entering_r = xr + tl.where(first, ar * hr[None, :] - ai * hi[None, :], 0.0)
        entering_i = xi + tl.where(first, ar * hi[None, :] + ai * hr[None, :], 0.0)
        ar, ai, sr, si = scan(ar, ai, entering_r, entering_i, False, COMPLEX)
        tl.store(state_ptr + at, sr, mask=ok)
        last = (row == T - 1)[:, None]
        hr = tl.sum(tl.where(last, sr, 0.0), axis=0)
        if COMPLEX:
            tl.store(state_ptr + parts_stride + at, si, mask=ok)
            hi = tl.sum(tl.where(last, si, 0.0), axis=0)


@triton.jit  # type: ignore[untyped-decorator]
def load_state(state_ptr, at, parts_stride, ok, COMPLEX: tl.constexpr):  # type: ignore[no-untyped-def]
    """Load the state that enters a tile, [1, C] each."""
    real = tl.load(state_ptr + at, mask=ok, other=0.0)[None, :]
    imaginary = real * 0.0
    if COMPLEX:
        imaginary = tl.load(state_ptr + parts_stride + at, mask=ok, other=0.0)[None, :]
    return real, imaginary


@triton.jit(do_not_specialize=["tokens"])  # type: ignore[untyped-decorator]
def output_kernel(  # type: ignore[no-untyped-def]
    q_ptr, k_ptr, v_ptr, g_ptr, phase_ptr, state_ptr, o_ptr, tokens, channels, tiles, parts_stride,
    COMPLEX: tl.constexpr, T: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """One program computes o of its tile from the state that enters it."""
    blocks = tl.cdiv(channels, C)
    pid = tl.program_id(0)
    tile = pid // blocks % tiles
    sequence = tl.cast(pid // blocks // tiles, tl.int64)
    token = tile * T + tl.arange(0, T)
    col = pid % blocks * C + tl.arange(0, C)
    at = sequence * tokens * channels + tl.cast(token, tl.int64)[:, None] * channels + col[None, :]  # [T, C]
    ok = (token < tokens)[:, None] & (col < channels)[None, :]
    ar, ai = load_gate(g_ptr, phase_ptr, at, ok, COMPLEX)
    xr = load_product(k_ptr, v_ptr, at, ok)
    ar, ai, xr, _ = scan(ar, ai, xr, xr * 0.0, False, COMPLEX)
    state_at = (sequence * tiles + tile) * channels + col
    sr, si = load_state(state_ptr, state_at, parts_stride, col < channels, COMPLEX)
    q = tl.cast(tl.load(q_ptr + at, mask=ok, other=0.0), tl.float32)
    o = q * (xr + ar * sr - ai * si)
    tl.store(o_ptr + at, tl.cast(o, o_ptr.dtype.element_ty), mask=ok)


@triton.jit(do_not_specialize=["tokens"])  # type: ignore[untyped-decorator]
def gradient_kernel(  # type: ignore[no-untyped-def]
    do_ptr, q_ptr, k_ptr, v_ptr, g_ptr, phase_ptr, state_ptr, grad_state_ptr,
    dq_ptr, dk_ptr, dv_ptr, dg_ptr, dphase_ptr, tokens, channels, tiles, parts_stride,
    COMPLEX: tl.constexpr, T: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """One program computes every gradient of its tile from what enters it from both sides."""
    blocks = tl.cdiv(channels, C)
    pid = tl.program_id(0)
    tile = pid // blocks % tiles
    sequence = tl.cast(pid // blocks // tiles, tl.int64)
    row = tl.arange(0, T)
    token = tile * T + row
    col = pid % blocks * C + tl.arange(0, C)
    at = sequence * tokens * channels + tl.cast(token, tl.int64)[:, None] * channels + col[None, :]  # [T, C]
    ok = (token < tokens)[:, None] & (col < channels)[None, :]
    state_at = (sequence * tiles + tile) * channels + col
    ok_col = col < channels

    # u_t = a_t·h_{t−1} by a scan of its own: h_t − k_t·v_t would cancel where the gate is nearly shut.
    ar, ai = load_gate(g_ptr, phase_ptr, at, ok, COMPLEX)
    previous = load_product(k_ptr, v_ptr, at - channels, ok & (row > 0)[:, None])
    ur, ui = ar * previous, ai * previous
    ar, ai, ur, ui = scan(ar, ai, ur, ui, False, COMPLEX)
    sr, si = load_state(state_ptr, state_at, parts_stride, ok_col, COMPLEX)
    ur, ui = ur + ar * sr - ai * si, ui + ar * si + ai * sr

    q = tl.cast(tl.load(q_ptr + at, mask=ok, other=0.0), tl.float32)
    do = tl.cast(tl.load(do_ptr + at, mask=ok, other=0.0), tl.float32)
    br, bi = load_gate(g_ptr, phase_ptr, at + channels, ok & (token < tokens - 1)[:, None], COMPLEX)
    gr = q * do
    br, bi, gr, gi = scan(br, -bi, gr, gr * 0.0, True, COMPLEX)
    sr, si = load_state(grad_state_ptr, state_at, parts_stride, ok_col, COMPLEX)
    gr, gi = gr + br * sr - bi * si, gi + br * si + bi * sr

    k = tl.cast(tl.load(k_ptr + at, mask=ok, other=0.0), tl.float32)
    v = tl.cast(tl.load(v_ptr + at, mask=ok, other=0.0), tl.float32)
    tl.store(dq_ptr + at, tl.cast(do * (ur + k * v), dq_ptr.dtype.element_ty), mask=ok)
    tl.store(dk_ptr + at, tl.cast(gr * v, dk_ptr.dtype.element_ty), mask=ok)
    tl.store(dv_ptr + at, tl.cast(gr * k, dv_ptr.dtype.element_ty), mask=ok)
    tl.store(dg_ptr + at, tl.cast(gr * ur + gi * ui, dg_ptr.dtype.element_ty), mask=ok)
    if COMPLEX:
        tl.store(dphase_ptr + at, tl.cast(gi * ur - gr * ui, dphase_ptr.dtype.element_ty), mask=ok)


def check_runnable(q: Tensor) -> None:
    """Check that the kernels can run where q is.

    Raises:
        ValueError: for a tensor that is not on a GPU, unless the Triton interpreter is on.
    """
    if not q.is_cuda and not interpreted(tile_kernel):
        raise ValueError(
            f"gate_loop needs tensors on a GPU, got {q.device}: use gate_loop_torch there, "
            "or set TRITON_INTERPRET=1 before the import to debug"
        )


def forward(q: Tensor, k: Tensor, v: Tensor, g: Tensor, phase: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return o and the states that enter tiles; all tensors [sequences, tokens, channels], contiguous."""
    o = torch.empty_like(q)
    with on_device(q):
        state = _entering(k, v, g, phase, reverse=False)
        sequences, tokens, channels = q.shape
        tiles, block, grid = _grid(q, phase is not None)
        if q.numel():
            output_kernel[(grid,)](
                q, k, v, g, phase, state, o, tokens, channels, tiles, sequences * tiles * channels,
                COMPLEX=phase is not None, T=_TOKENS, C=block, num_warps=_WARPS,
            )  # fmt: skip
    return o, state


def backward(
    do: Tensor, q: Tensor, k: Tensor, v: Tensor, g: Tensor, phase: Tensor | None, state: Tensor
) -> list[Tensor | None]:
    """Return dq, dk, dv, dg and dphase, None where there is no phase."""
    grads = [None if x is None else torch.empty_like(x) for x in (q, k, v, g, phase)]
    with on_device(q):
        grad_state = _entering(q, do, g, phase, reverse=True)
        sequences, tokens, channels = q.shape
        tiles, block, grid = _grid(q, phase is not None)
        if q.numel():
            gradient_kernel[(grid,)](
                do, q, k, v, g, phase, state, grad_state, *grads, tokens, channels, tiles,
                sequences * tiles * channels,
                COMPLEX=phase is not None, T=_TOKENS, C=block, num_warps=_WARPS,
            )  # fmt: skip
    return grads


def _grid(x: Tensor, complex_gate: bool) -> tuple[int, int, int]:
    sequences, tokens, channels = x.shape
    tiles = -(-tokens // _TOKENS)
    block = min(_CHANNELS[complex_gate], max(16, triton.next_power_of_2(channels)))
    return tiles, block, sequences * tiles * -(-channels // block)


def _entering(x: Tensor, y: Tensor, g: Tensor, phase: Tensor | None, *, reverse: bool) -> Tensor:
    """Return the state that enters each tile, fp32 [parts, sequences, tiles, channels] of 1 or 2 parts."""
    sequences, tokens, channels = x.shape
    is_complex = phase is not None
    tiles, block, grid = _grid(x, is_complex)
    parts = 2 if is_complex else 1
    shape = sequences, tiles, channels
    if tiles <= 1 or not x.numel():
        return x.new_zeros((parts, *shape), dtype=torch.float32)
    sums = torch.empty((2 * parts, *shape), dtype=torch.float32, device=x.device)
    state = torch.empty((parts, *shape), dtype=torch.float32, device=x.device)
    stride = _product(shape)
    tile_kernel[(grid,)](
        x, y, g, phase, sums, tokens, channels, tiles, stride,
        REVERSE=reverse, COMPLEX=is_complex, T=_TOKENS, C=block, num_warps=_WARPS,
    )  # fmt: skip
    enter_kernel[(sequences * -(-channels // _ENTER_CHANNELS),)](
        sums, state, channels, tiles, stride,
        REVERSE=reverse, COMPLEX=is_complex, T=_ENTER_TILES, C=_ENTER_CHANNELS, num_warps=_WARPS,
    )  # fmt: skip
    return state


def _product(sizes: Iterable[int]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total
