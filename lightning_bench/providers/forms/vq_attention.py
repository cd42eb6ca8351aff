"""Transformer-VQ's attention over a codebook in linear time (arXiv 2309.16354), in PyTorch.

Keys are vectors of a codebook, k̂_j = C[z_j]. All tokens of earlier blocks that share a code have the same
score, so a block of queries sees the past as one column per code: the score of the code plus the logarithm of
its count, and the mean of its values. That is exact. The block itself is attended to token by token.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

BLOCK = 512
"""Tokens per block: the paper's L."""


def vq_attention(q: Tensor, codes: Tensor, codebook: Tensor, v: Tensor, *, block: int = BLOCK) -> Tensor:
    """Return o_t = Σ_{i≤t} softmax_i(d^(−1/2) q_t·C[z_i]) v_i, in time and memory linear in the sequence.

    Sums over codes are in fp32 (fp64 for fp64), products in the dtype of q. The result is differentiable with
    respect to q, codebook and v. There is no positional bias.

    Args:
        q: queries [b, h, n, d].
        codes: the code of each key, int64 [b, h, n], from 0 to m − 1.
        codebook: the codes' vectors [h, m, d].
        v: values [b, h, n, e].
        block: tokens per block.

    Returns:
        o [b, h, n, e] in the dtype of v.

    Raises:
        ValueError: if shapes do not fit together or block is less than 1.

    Source: Transformer-VQ, arXiv 2309.16354, without its bias B.
    """
    b, h, n, d = q.shape
    e, m = v.shape[3], codebook.shape[1]
    if codes.shape != (b, h, n) or v.shape[:3] != (b, h, n) or codebook.shape != (h, m, d):
        raise ValueError(
            "q must be [b, h, n, d], codes [b, h, n], codebook [h, m, d] and v [b, h, n, e], got "
            f"{tuple(q.shape)}, {tuple(codes.shape)}, {tuple(codebook.shape)} and {tuple(v.shape)}"
        )
    if block < 1:
        raise ValueError(f"block must be at least 1, got {block}")
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    size = min(block, n)
    count = -(-n // size)
    pad = count * size - n
    # Padding is only in the last block, where the causal mask hides it.
    q, v = (torch.nn.functional.pad(x, (0, 0, 0, pad)) for x in (q, v))
    codes = torch.nn.functional.pad(codes, (0, pad))
    q, v, codes = (x.unflatten(2, (count, size)) for x in (q, v, codes))  # [b, h, count, size, ...]
    q = q * (1.0 / math.sqrt(d))

    seen, mean = _past(codes, v, m, wide)
    # [b, h, count, size, m]: a code that was not seen yet gets log(0) = −∞.
    past = (q @ codebook[:, None].mT).to(wide) + seen.log()[:, :, :, None]
    # The lookup is in the wide dtype, so that the gradients of a code's tokens are summed in it.
    keys = _looked_up(codebook.to(wide), codes).to(q.dtype)
    near = (q @ keys.mT).to(wide)
    hidden = torch.ones(size, size, dtype=torch.bool, device=q.device).triu(1)
    weights = torch.cat((past, near.masked_fill(hidden, -math.inf)), -1).softmax(-1).to(v.dtype)
    o = weights[..., :m] @ mean.to(v.dtype) + weights[..., m:] @ v
    return o.reshape(b, h, count * size, e)[:, :, :n]


def _past(codes: Tensor, v: Tensor, m: int, wide: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return how often each code was seen before each block [b, h, count, m], and its mean value."""
    counts = torch.zeros(*codes.shape[:3], m, dtype=wide, device=v.device)
    counts.scatter_add_(3, codes, torch.ones_like(codes, dtype=wide))
    sums = torch.zeros(*codes.shape[:3], m, v.shape[4], dtype=wide, device=v.device)
    sums = sums.scatter_add(3, codes[..., None].expand(v.shape), v.to(wide))
    seen, total = ((x.cumsum(2) - x) for x in (counts, sums))
    # Sums of counts are exact in fp32 up to 2²⁴ tokens.
    return seen, total / seen.clamp(min=1.0)[..., None]


def _looked_up(codebook: Tensor, codes: Tensor) -> Tensor:
    """Return the key of each token, [b, h, count, size, d]."""
    h, m, d = codebook.shape
    first = torch.arange(h, device=codes.device)[None, :, None, None] * m
    rows: Tensor = torch.nn.functional.embedding(codes + first, codebook.reshape(h * m, d))
    return rows
