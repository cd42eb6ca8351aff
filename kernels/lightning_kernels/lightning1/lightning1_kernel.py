"""Lightning Attention-1: the quadratic form, tile by tile, without a softmax.

    O_i = Σ_{j≤i} [(Q_i K_jᵀ) ∘ M_ij] V_j,    M_ts = λ^(t−s) for t ≥ s, else 0,    λ = exp(−s)

i and j are tiles of queries and of keys. The gradients are sums of the same form: dq walks over tiles of
keys, dk and dv over tiles of queries, from the last one down to their own.
"""

import triton
import triton.language as tl
from torch import Tensor

from ..common.allocate import unit_last_stride
from ..common.call import Call
from ..common.launch import check_device, on_device
from ..lightning2.tiles import STEEPEST, lightning1_tiles

__all__ = ["check_runnable", "quadratic_attention"]

_STEEPEST = tl.constexpr(STEEPEST)


@triton.jit(do_not_specialize=["heads", "seq_len"])  # type: ignore[untyped-decorator]
def quadratic_attention_kernel(  # type: ignore[no-untyped-def]
    q_ptr, k_ptr, v_ptr, o_ptr, slope_ptr, heads, seq_len,
    q_stride_b, q_stride_h, q_stride_n, k_stride_b, k_stride_h, k_stride_n,
    v_stride_b, v_stride_h, v_stride_n, o_stride_b, o_stride_h, o_stride_n,
    D: tl.constexpr, E: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    HAS_DECAY: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """One program owns BLOCK rows by BLOCK_E columns of o and walks the tiles of k and v up to its own.

    It walks from the first tile to its own, in reverse from the last to its own.
    """
    tiles_e: tl.constexpr = (E + BLOCK_E - 1) // BLOCK_E
    tiles_n = tl.cdiv(seq_len, BLOCK)
    pid = tl.program_id(0)
    first_e = (pid % tiles_e) * BLOCK_E
    # The programs with the longest walk start first, so that the device is full to the end.
    rank = tiles_n - 1 - (pid // tiles_e) % tiles_n
    head = (pid // tiles_e // tiles_n) % heads
    batch = tl.cast(pid // tiles_e // tiles_n // heads, tl.int64)
    q_ptr += batch * q_stride_b + tl.cast(head, tl.int64) * q_stride_h
    k_ptr += batch * k_stride_b + tl.cast(head, tl.int64) * k_stride_h
    v_ptr += batch * v_stride_b + tl.cast(head, tl.int64) * v_stride_h
    o_ptr += batch * o_stride_b + tl.cast(head, tl.int64) * o_stride_h

    row = tl.arange(0, BLOCK)
    row64 = tl.cast(row, tl.int64)
    col_d = tl.arange(0, BLOCK_D)
    col_e = first_e + tl.arange(0, BLOCK_E)
    d_ok = col_d < D
    e_ok = col_e < E

    own = (tiles_n - 1 - rank if REVERSE else rank) * BLOCK
    own64 = tl.cast(own, tl.int64)
    own_ok = own + row < seq_len  # [BLOCK]
    q_tile = (own64 + row64)[:, None] * q_stride_n + col_d[None, :]
    q = tl.load(q_ptr + q_tile, mask=own_ok[:, None] & d_ok[None, :], other=0.0)  # [BLOCK, BLOCK_D]
    slope = 0.0
    if HAS_DECAY:
        slope = tl.load(slope_ptr + head)
        slope = tl.where(slope > _STEEPEST, _STEEPEST, slope)

    total = tl.zeros([BLOCK, BLOCK_E], dtype=tl.float32)
    for visit in range(rank + 1):
        start = (tiles_n - 1 - visit if REVERSE else visit) * BLOCK
        token = tl.cast(start, tl.int64) + row64  # [BLOCK]
        ok = start + row < seq_len  # [BLOCK]
        k_tile = col_d[:, None] + token[None, :] * k_stride_n
        v_tile = token[:, None] * v_stride_n + col_e[None, :]
        k_t = tl.load(k_ptr + k_tile, mask=ok[None, :] & d_ok[:, None], other=0.0)  # [BLOCK_D, BLOCK]
        v = tl.load(v_ptr + v_tile, mask=ok[:, None] & e_ok[None, :], other=0.0)  # [BLOCK, BLOCK_E]

        distance = own - start + row[:, None] - row[None, :]  # [BLOCK, BLOCK]
        if REVERSE:
            distance = -distance
        p = tl.dot(q, k_t, input_precision="ieee")  # [BLOCK, BLOCK]
        if HAS_DECAY:
            p = p * tl.exp(tl.minimum(-slope * tl.cast(distance, tl.float32), 0.0))
        p = tl.where(distance >= 0, p, 0.0)
        total = tl.dot(tl.cast(p, v.dtype), v, acc=total, input_precision="ieee")  # [BLOCK, BLOCK_E]

    o_tile = (own64 + row64)[:, None] * o_stride_n + col_e[None, :]
    tl.store(o_ptr + o_tile, tl.cast(total, q.dtype), mask=own_ok[:, None] & e_ok[None, :])


def check_runnable(tensor: Tensor) -> None:
    """Raise ValueError unless the kernel can run where the tensor is."""
    check_device(tensor, quadratic_attention_kernel, "lightning_attn1")


def quadratic_attention(call: Call, out: Tensor, final: Tensor | None, *, reverse: bool) -> None:
    """Launch the kernel; a `Core` for one number of heads that takes neither a scale nor states."""
    if out.numel() == 0:
        return
    q, k, v = unit_last_stride(call.q), unit_last_stride(call.k), unit_last_stride(call.v)
    slopes = call.slopes
    b, h, n, d = q.shape
    e = v.shape[3]
    tiles = lightning1_tiles(d, e, q.dtype)
    with on_device(q):
        quadratic_attention_kernel[(b * h * -(-n // tiles.block) * tiles.split_e,)](
            q, k, v, out, slopes, h, n,
            *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3],
            D=d, E=e, BLOCK=tiles.block, BLOCK_D=tiles.block_d, BLOCK_E=tiles.block_e,
            HAS_DECAY=slopes is not None, REVERSE=reverse,
            num_warps=tiles.warps, num_stages=tiles.stages,
        )  # fmt: skip
