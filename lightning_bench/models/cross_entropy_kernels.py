"""Triton kernels of the cross entropy: a program per token forward, and per block of its words backward."""

import triton
import triton.language as tl


@triton.jit
def _exp(x):  # type: ignore[no-untyped-def]
    """Return e to x, fp32, but 0 below 2^-126, for which tl.exp needs three of its five instructions."""
    return tl.exp2(x * 1.4426950408889634)


@triton.jit
def _finite(top):  # type: ignore[no-untyped-def]
    """Return 0 for -inf, else `top`: -inf less -inf would be NaN."""
    return tl.where(top == float("-inf"), 0.0, top)


@triton.jit  # type: ignore[untyped-decorator]
def loss_kernel(logits_ptr, targets_ptr, losses_ptr, tops_ptr, sums_ptr, words, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Write the loss of a token, its highest logit, and the sum of e to how far its logits are above that.

    One thread loads eight words of a block, and keeps their sum: threads meet only at the end.
    """
    token = tl.program_id(0).to(tl.int64)
    row_ptr = logits_ptr + token * words
    target = tl.load(targets_ptr + token)
    known = (target >= 0) & (target < words)
    wanted = tl.load(row_ptr + target, mask=known, other=float("nan")).to(tl.float32)
    place = tl.arange(0, BLOCK // 8)[:, None] * 8 + tl.arange(0, 8)[None, :]
    tops = tl.full([BLOCK // 8], float("-inf"), tl.float32)
    sums = tl.zeros([BLOCK // 8], tl.float32)
    for start in range(0, words, BLOCK):
        word = start + place
        logit = tl.load(row_ptr + word, mask=word < words, other=float("-inf")).to(tl.float32)
        higher = tl.maximum(tops, tl.max(logit, axis=1))
        offset = _finite(higher)
        sums = sums * _exp(tops - offset) + tl.sum(_exp(logit - offset[:, None]), axis=1)
        tops = higher
    top = tl.max(tops, axis=0)
    total = tl.sum(sums * _exp(tops - _finite(top)), axis=0)
    tl.store(tops_ptr + token, top)
    tl.store(sums_ptr + token, total)
    tl.store(losses_ptr + token, top - wanted + tl.log(total))


@triton.jit  # type: ignore[untyped-decorator]
def gradient_kernel(  # type: ignore[no-untyped-def]
    logits_ptr, targets_ptr, tops_ptr, sums_ptr, upstream_ptr, gradient_ptr, words, BLOCK: tl.constexpr
):
    """Write the gradient of the logits of a token, for a block of words."""
    token = tl.program_id(0).to(tl.int64)
    word = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    place, inside = token * words + word, word < words
    logit = tl.load(logits_ptr + place, mask=inside, other=0.0).to(tl.float32)
    share = _exp(logit - tl.load(tops_ptr + token)) / tl.load(sums_ptr + token)
    less = tl.where(word == tl.load(targets_ptr + token), share - 1.0, share)
    gradient = less * tl.load(upstream_ptr + token)
    tl.store(gradient_ptr + place, gradient, mask=inside)
