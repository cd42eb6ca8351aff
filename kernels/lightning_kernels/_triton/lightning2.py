"""Lightning Attention-2 in one pass over the sequence.

For a block of B tokens with positions i, j in 0…B−1, λ = exp(−s) and the state KV entering the block:

    O  = [(Q Kᵀ) ∘ M] V + Λ Q·KV,    M_ij = λ^(i−j) for i ≥ j, else 0,    Λ_i = λ^(i+1)
    KV ← λ^B KV + (λ^(B−1−j) K)ᵀ V

All of it is computed transposed, with the state as KVᵀ [value_dim, head_dim] in fp32 registers:

    Pᵀ = (K Qᵀ) ∘ Mᵀ,    Oᵀ = (KVᵀ Qᵀ) ∘ Λ + Vᵀ Pᵀ,    KVᵀ ← λ^B KVᵀ + (Vᵀ ∘ λ^(B−1−j)) K

so that the rounded state and the weighted Vᵀ are first operands of a dot and never leave the registers.
Pᵀ comes from its own dot: `tl.trans` of an accumulator that feeds a dot is miscompiled on Hopper by
Triton 3.4 to 3.7.0. In reverse, i and j count from the end of a block and blocks from the last.
"""

import triton
import triton.language as tl
from torch import Tensor

from lightning_kernels._config import lightning2_tiles
from lightning_kernels._triton.launch import check_device, on_device, unit_last_stride

__all__ = ["check_runnable", "linear_attention"]


@triton.jit(do_not_specialize=["heads", "seq_len"])  # type: ignore[untyped-decorator]
def linear_attention_kernel(  # type: ignore[no-untyped-def]
    q_ptr, k_ptr, v_ptr, o_ptr, slope_ptr, heads, seq_len,
    q_stride_b, q_stride_h, q_stride_n, k_stride_b, k_stride_h, k_stride_n,
    v_stride_b, v_stride_h, v_stride_n, o_stride_b, o_stride_h, o_stride_n,
    D: tl.constexpr, E: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    HAS_DECAY: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """One program owns BLOCK_E columns of v of one (batch, head) and walks all its blocks of tokens.

    It walks from the first block to the last, in reverse from the last to the first.
    """
    tiles_e: tl.constexpr = (E + BLOCK_E - 1) // BLOCK_E
    pid = tl.program_id(0)
    first_e = (pid % tiles_e) * BLOCK_E
    head = (pid // tiles_e) % heads
    batch = tl.cast(pid // tiles_e // heads, tl.int64)
    q_ptr += batch * q_stride_b + tl.cast(head, tl.int64) * q_stride_h
    k_ptr += batch * k_stride_b + tl.cast(head, tl.int64) * k_stride_h
    v_ptr += batch * v_stride_b + tl.cast(head, tl.int64) * v_stride_h
    o_ptr += batch * o_stride_b + tl.cast(head, tl.int64) * o_stride_h

    row = tl.arange(0, BLOCK)
    row64 = tl.cast(row, tl.int64)
    col_d = tl.arange(0, BLOCK_D)
    col_e = first_e + tl.arange(0, BLOCK_E)
    q_tile = col_d[:, None] + row64[None, :] * q_stride_n  # [BLOCK_D, BLOCK]
    k_tile = row64[:, None] * k_stride_n + col_d[None, :]  # [BLOCK, BLOCK_D]
    v_tile = col_e[:, None] + row64[None, :] * v_stride_n  # [BLOCK_E, BLOCK]
    o_tile = col_e[:, None] + row64[None, :] * o_stride_n  # [BLOCK_E, BLOCK]

    step = BLOCK - 1 - row if REVERSE else row  # [BLOCK], 0 for the token that is visited first
    weight = tl.where(step[:, None] <= step[None, :], 1.0, 0.0)  # [BLOCK j, BLOCK i]
    if HAS_DECAY:
        slope = tl.load(slope_ptr + head)
        distance = tl.cast(step[None, :] - step[:, None], tl.float32)
        weight *= tl.exp(tl.minimum(-slope * distance, 0.0))
        decay_q = tl.exp(-slope * (step + 1))  # [BLOCK]
        decay_k = tl.exp(-slope * (BLOCK - 1 - step))  # [BLOCK]
        # Its error grows with the number of blocks: fp64 once, and for fp32 inputs what rounding left over.
        exact_decay = tl.exp(tl.cast(slope, tl.float64) * -BLOCK)
        block_decay = tl.cast(exact_decay, tl.float32)
        rest_decay = tl.cast(exact_decay - block_decay, tl.float32)

    low = q_ptr.dtype.element_ty
    state = tl.zeros([BLOCK_E, BLOCK_D], dtype=tl.float32)
    blocks = tl.cdiv(seq_len, BLOCK)
    for visit in range(blocks):
        start = (blocks - 1 - visit if REVERSE else visit) * BLOCK
        start64 = tl.cast(start, tl.int64)
        inside = start + row < seq_len  # [BLOCK]
        d_inside = inside[None, :] if D == BLOCK_D else inside[None, :] & (col_d < D)[:, None]
        k_inside = inside[:, None] if D == BLOCK_D else inside[:, None] & (col_d < D)[None, :]
        e_inside = inside[None, :] if E % BLOCK_E == 0 else inside[None, :] & (col_e < E)[:, None]
        q_t = tl.load(q_ptr + start64 * q_stride_n + q_tile, mask=d_inside, other=0.0)  # [BLOCK_D, BLOCK]
        k = tl.load(k_ptr + start64 * k_stride_n + k_tile, mask=k_inside, other=0.0)  # [BLOCK, BLOCK_D]
        v_t = tl.load(v_ptr + start64 * v_stride_n + v_tile, mask=e_inside, other=0.0)  # [BLOCK_E, BLOCK]

        p_t = tl.cast(tl.dot(k, q_t, input_precision="ieee") * weight, low)  # [BLOCK j, BLOCK i]
        o_t = tl.dot(tl.cast(state, low), q_t, input_precision="ieee")  # [BLOCK_E, BLOCK]
        if HAS_DECAY:
            o_t = o_t * decay_q[None, :]
        o_t = tl.dot(v_t, p_t, acc=o_t, input_precision="ieee")
        tl.store(o_ptr + start64 * o_stride_n + o_tile, tl.cast(o_t, low), mask=e_inside)

        if HAS_DECAY:
            v_t = tl.cast(v_t * decay_k[None, :], low)
            decayed = state * block_decay
            if low == tl.float32:
                decayed += state * rest_decay
            state = decayed
        state = tl.dot(v_t, k, acc=state, input_precision="ieee")  # [BLOCK_E, BLOCK_D]


def check_runnable(tensor: Tensor) -> None:
    """Raise ValueError unless the kernel can run where the tensor is."""
    check_device(tensor, linear_attention_kernel, "lightning_attn2")


def linear_attention(
    q: Tensor, k: Tensor, v: Tensor, slopes: Tensor | None, out: Tensor, reverse: bool
) -> None:
    """Write LA(q, k, v), or LAʳ where `reverse`, into `out` [b, h, n, value_dim] of contiguous last dim."""
    if out.numel() == 0:
        return
    q, k, v = unit_last_stride(q), unit_last_stride(k), unit_last_stride(v)
    b, h, n, d = q.shape
    e = v.shape[3]
    tiles = lightning2_tiles(d, e, q.dtype)
    with on_device(q):
        linear_attention_kernel[(b * h * tiles.split_e,)](
            q, k, v, out, slopes, h, n,
            *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3],
            D=d, E=e, BLOCK=tiles.block, BLOCK_D=tiles.block_d, BLOCK_E=tiles.block_e,
            HAS_DECAY=slopes is not None, REVERSE=reverse,
            num_warps=tiles.warps, num_stages=tiles.stages,
        )  # fmt: skip
