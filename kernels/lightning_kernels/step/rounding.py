"""Stochastic rounding of states to bf16 in PyTorch; `token_walk` has the same in Triton.

An element gets 16 random bits, which are added to the 16 bits that bf16 leaves out, so that the sum carries
with the probability that makes the rounding unbiased. The bits depend on a seed, the element's place in the
state of its sequence and a count: not on the batch, nor on how a kernel is cut up.
"""

import torch
from torch import Tensor

ROUNDS = 7
"""Rounds of Philox 4×32: the fewest that pass TestU01's BigCrush with a margin (Salmon et al., SC 2011)."""


def round_stochastic(states: Tensor, seeds: Tensor, counts: Tensor) -> Tensor:
    """Round states to bf16 as the kernels do.

    Args:
        states: fp32 [n, heads, head_dim, value_dim].
        seeds: int64 [n], one for each state.
        counts: [n], tokens of its sequence that the call has put into it.

    Returns:
        the states in bf16.
    """
    _, heads, d, e = states.shape
    groups = -(-e // 8)
    place = torch.arange(heads * d * groups, device=states.device)[None, :]  # [1, heads·d·groups]
    words = _philox(place, counts.to(torch.int64)[:, None], seeds[:, None])  # [n, heads·d·groups] each
    order = torch.stack([words[0], words[2], words[1], words[3]], -1)
    bits = torch.stack([order & 0xFFFF, order >> 16], -1).reshape(-1, heads, d, 8 * groups)[..., :e]
    exact = states.contiguous().view(torch.int32).to(torch.int64) & 0xFFFFFFFF
    rounded = ((exact + bits) >> 16) & 0xFFFF
    whole = torch.where(rounded >= 0x8000, rounded - 0x10000, rounded).to(torch.int16).view(torch.bfloat16)
    return torch.where(states.isfinite(), whole, states.to(torch.bfloat16))


def _philox(c0: Tensor, c1: Tensor, seeds: Tensor) -> tuple[Tensor, ...]:
    """Return the four words of Philox 4×32 with the counter (c0, c1, 0, 0), each an int64 below 2³²."""
    low = 0xFFFFFFFF
    key0, key1 = seeds & low, (seeds >> 32) & low
    x0, x1 = torch.broadcast_tensors(c0, c1)
    x2 = x3 = torch.zeros_like(x0)
    for _ in range(ROUNDS):
        # The product of two 32-bit numbers modulo 2⁶⁴ has all its bits; the sign is masked away.
        left, right = x2 * 0xCD9E8D57, x0 * 0xD2511F53
        x0, x2 = ((left >> 32) & low) ^ x1 ^ key0, ((right >> 32) & low) ^ x3 ^ key1
        x1, x3 = left & low, right & low
        key0, key1 = (key0 + 0x9E3779B9) & low, (key1 + 0xBB67AE85) & low
    return x0, x1, x2, x3
