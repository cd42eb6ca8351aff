"""Lightning Attention-2 in plain PyTorch, for CPUs and for GPUs without Triton.

In blocks of B tokens, λ = exp(−s), KV_t the state entering block t (head_dim × value_dim):

    O_t = [(Q_t K_tᵀ) ∘ M] V_t + Λ Q_t·KV_t,    KV_{t+1} = λ^B KV_t + (λ^(B−1−j) K_t)ᵀ V_t

A segment is a run of blocks that are computed together by batched products; the states that enter its
blocks are one product with the triangle W_tu = λ^(B·(t−u−1)), t > u. Segments follow one another with
the state alone between them, which bounds the memory. In reverse, tokens, blocks and segments all count
from the end.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from lightning_kernels._autograd import attend
from lightning_kernels._contract import check_inputs

_SEGMENT_ELEMENTS = {"cpu": 1 << 17}
"""Upper bound of each intermediate of a segment, where one block allows it: on a CPU it stays in cache."""
_SEGMENT_ELEMENTS_ELSEWHERE = 1 << 24


def lightning_attn2_torch(
    q: Tensor, k: Tensor, v: Tensor, s: Tensor | None = None, *, block_size: int = 64
) -> Tensor:
    """Compute causal linear attention with a fixed decay per head by batched matrix products.

    o_i = Σ_{j≤i} exp(−s·(i−j)) (q_i·k_j) v_j, without a softmax and without a scale. It computes in fp64
    for fp64 inputs and in fp32 for all others. Memory beyond the results does not grow with n, and
    nothing but q, k, v and s is saved for backward.

    Args:
        q: queries [b, h, n, head_dim], any floating dtype, strides and device.
        k: keys [b, h, n, head_dim].
        v: values [b, h, n, value_dim].
        s: slopes per token [h, 1, 1] or [h], s ≥ 0 (checked on the CPU); None means no decay.
        block_size: tokens a block, at least 1; it changes speed and rounding alone.

    Returns:
        o [b, h, n, value_dim] in the dtype of q, laid out in memory as v is where its last dim is contiguous.

    Raises:
        ValueError: if shapes, dtypes or devices do not fit together, or block_size is less than 1.
        NotImplementedError: if s requires a gradient.

    Source: Lightning Attention-2, arXiv 2401.04658.
    """
    slopes = check_inputs(q, k, v, s)
    if block_size < 1:
        raise ValueError(f"block_size must be at least 1, got {block_size}")
    return attend(q, k, v, slopes, partial(_linear_attention, block_size=block_size))


@dataclass(frozen=True, slots=True)
class _Decay:
    """The powers of λ that a segment of `blocks` blocks of `block` tokens needs, h = heads."""

    within: Tensor  # M [h, 1, B, B]
    query: Tensor  # Λ [h, 1, B, 1]
    key: Tensor  # [h, 1, B, 1]
    between: Tensor  # W [h, blocks, blocks]
    entering: Tensor  # [h, blocks, 1]
    leaving: Tensor  # [h, 1, blocks]
    whole: Tensor  # [h, 1, 1]


def _decay(slopes: Tensor, block: int, blocks: int, dtype: torch.dtype, reverse: bool) -> _Decay:
    rate = slopes.to(torch.float64)[:, None]  # [h, 1]

    def power(steps: Tensor) -> Tensor:
        return torch.exp(-rate * steps.reshape(-1)).to(dtype).reshape(-1, *steps.shape)

    def lower(steps: Tensor) -> Tensor:
        return power(steps.clamp_min(0.0)) * (steps >= 0)

    token = torch.arange(block, dtype=torch.float64, device=slopes.device)
    turn = torch.arange(blocks, dtype=torch.float64, device=slopes.device)
    if reverse:
        token, turn = token.flip(0), turn.flip(0)
    return _Decay(
        within=lower(token[:, None] - token[None, :])[:, None],
        query=power(token + 1)[:, None, :, None],
        key=power(block - 1 - token)[:, None, :, None],
        between=lower((turn[:, None] - turn[None, :] - 1) * block),
        entering=power(turn * block)[:, :, None],
        leaving=power((blocks - 1 - turn) * block)[:, None, :],
        whole=power(torch.full((1, 1), float(block * blocks), dtype=torch.float64, device=slopes.device)),
    )


def _segments(n: int, block: int, blocks: int) -> list[tuple[int, int, int]]:
    """Cut n tokens into (first token, tokens a block, blocks); the last one may be a shorter block."""
    span = block * blocks
    cuts = [(first, block, blocks) for first in range(0, n - n % span, span)]
    first = n - n % span
    if whole := (n - first) // block:
        cuts.append((first, block, whole))
    if rest := n % block:
        cuts.append((n - rest, rest, 1))
    return cuts


def _linear_attention(
    q: Tensor, k: Tensor, v: Tensor, slopes: Tensor | None, out: Tensor, reverse: bool, *, block_size: int
) -> None:
    """Write LA(q, k, v), or LAʳ where `reverse`, into `out`."""
    if out.numel() == 0:
        return
    b, h, n, d = q.shape
    e = v.shape[3]
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    if slopes is None:
        slopes = torch.zeros(h, device=q.device)
    block = min(block_size, n)
    limit = _SEGMENT_ELEMENTS.get(q.device.type, _SEGMENT_ELEMENTS_ELSEWHERE)
    blocks = max(1, limit // (b * h * max(block * block, d * e, block * d, block * e)))
    blocks = min(blocks, n // block)
    cuts = _segments(n, block, blocks)
    state: Tensor | None = None  # [b, h, d, e]
    decays = {size: _decay(slopes, *size, dtype, reverse) for size in {cut[1:] for cut in cuts}}
    for cut in reversed(cuts) if reverse else cuts:
        first, size, count = cut
        tokens = slice(first, first + size * count)
        rows_q, rows_k, rows_v = (x[:, :, tokens].to(dtype) for x in (q, k, v))
        part, state = _segment(rows_q, rows_k, rows_v, decays[size, count], count, state)
        out[:, :, tokens] = part


def _segment(
    q: Tensor, k: Tensor, v: Tensor, decay: _Decay, blocks: int, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Compute one segment from the state that enters it; return its rows of o and the state that leaves."""
    b, h, n, d = q.shape
    e = v.shape[3]
    shape = (b, h, blocks, n // blocks)
    flat = b * h * blocks
    rows_q, rows_k = q.reshape(flat, -1, d), k.reshape(flat, -1, d)
    rows_v = v.reshape(flat, -1, e)  # [b·h·blocks, B, e]
    scores = torch.bmm(rows_q, rows_k.transpose(1, 2))  # [b·h·blocks, B, B]
    scores.view(*shape, -1).mul_(decay.within)
    part = torch.bmm(scores, rows_v)  # [b·h·blocks, B, e]
    weighted_k = rows_k.view(*shape, d) * decay.key
    sums = torch.bmm(weighted_k.view(flat, -1, d).transpose(1, 2), rows_v).view(b, h, blocks, d * e)
    if blocks > 1 or state is not None:
        entering = torch.matmul(decay.between, sums)  # [b, h, blocks, d·e]
        if state is not None:
            entering.addcmul_(decay.entering, state.view(b, h, 1, d * e))
        weighted_q = rows_q.view(*shape, d) * decay.query
        part.baddbmm_(weighted_q.view(flat, -1, d), entering.view(flat, d, e))
    leaving = torch.matmul(decay.leaving, sums)  # [b, h, 1, d·e]
    if state is not None:
        leaving.addcmul_(decay.whole, state.view(b, h, 1, d * e))
    return part.view(b, h, n, e), leaving
