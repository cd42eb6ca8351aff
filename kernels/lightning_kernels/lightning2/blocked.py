"""Lightning Attention-2 in plain PyTorch, for CPUs and for GPUs without Triton.

In blocks of B tokens, λ = exp(−s), X_t the state entering block t (head_dim × value_dim):

    O_t = [(Q_t K_tᵀ) ∘ M] V_t + Λ Q_t·X_t,    X_{t+1} = λ^B X_t + (w ∘ K_t)ᵀ V_t

with Λ_i = λ^(i+1) and w_j = λ^(B−1−j); in reverse, where the state enters at its full weight, Λ_i = λ^i
and w_j = λ^(B−j), and tokens, blocks and segments all count from the end.

A segment is a run of blocks that are computed together by batched products; the states that enter its
blocks are one product with the triangle W_tu = λ^(B·(t−u−1)), t > u. Segments follow one another,
and only the state passes between them, which bounds the memory.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Literal, overload

import torch
from torch import Tensor

from ..common.autograd import attend_by_core, unrecorded_backward
from ..common.call import Call
from ..common.core import core_forward
from ..common.validate import autocast_dtype, check_call, check_values, heads_first
from .context import ContextParallel, Passes, attend_across, local_call
from .state_call import StateCall, check_every
from .state_forms import leaving_state_torch, states_of_torch
from .tiles import STEEPEST

_SEGMENT_ELEMENTS = {"cpu": 1 << 17}
"""Upper bound in elements of each intermediate of a segment: on a CPU it stays in cache."""
_SEGMENT_ELEMENTS_ELSEWHERE = 1 << 24


@overload
def lightning_attn2_torch(
    q: Tensor, k: Tensor, v: Tensor, s: Tensor | None = None, *, scale: float = 1.0,
    initial_state: Tensor | None = None, return_state: Literal[False] = False,
    return_states_every: None = None, cu_seqlens: Tensor | None = None, cp: ContextParallel | None = None,
    layout: str = "bhnd", block_size: int = 64,
) -> Tensor: ...  # fmt: skip
@overload
def lightning_attn2_torch(
    q: Tensor, k: Tensor, v: Tensor, s: Tensor | None = None, *, scale: float = 1.0,
    initial_state: Tensor | None = None, return_state: Literal[True],
    return_states_every: None = None, cu_seqlens: Tensor | None = None, cp: ContextParallel | None = None,
    layout: str = "bhnd", block_size: int = 64,
) -> tuple[Tensor, Tensor]: ...  # fmt: skip
@overload
def lightning_attn2_torch(
    q: Tensor, k: Tensor, v: Tensor, s: Tensor | None = None, *, scale: float = 1.0,
    initial_state: Tensor | None = None, return_state: bool = False, return_states_every: int,
    cu_seqlens: Tensor | None = None, layout: str = "bhnd", block_size: int = 64,
) -> tuple[Tensor, ...]: ...  # fmt: skip
def lightning_attn2_torch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    s: Tensor | None = None,
    *,
    scale: float = 1.0,
    initial_state: Tensor | None = None,
    return_state: bool = False,
    return_states_every: int | None = None,
    cu_seqlens: Tensor | None = None,
    cp: ContextParallel | None = None,
    layout: str = "bhnd",
    block_size: int = 64,
) -> Tensor | tuple[Tensor, ...]:
    """Compute causal linear attention with a fixed decay per head by batched matrix products.

    o_t = scale · q_t · X_t,   X_t = exp(−s) · X_{t−1} + k_tᵀ v_t,   X_{−1} = initial_state

    without a softmax. It computes in fp64 for fp64 inputs and in fp32 for all others. Memory beyond the
    results does not grow with n, and nothing but the inputs is saved for backward. Under autocast it casts
    q, k and v as `lightning_attn2` does.

    Args:
        q: queries [b, hq, n, head_dim], any floating dtype, strides and device.
        k: keys [b, hk, n, head_dim], hq a multiple of hk: query head i reads kv head i // (hq // hk).
        v: values [b, hk, n, value_dim].
        s: slopes per token [hq, 1, 1] or [hq], s ≥ 0 (checked on the CPU); None means no decay, and inf that
            a token sees only itself.
        scale: what o is multiplied by; the state does not see it.
        initial_state: X before the first token [b, hq, head_dim, value_dim], any floating dtype and strides;
            None means zeros. It gets a gradient.
        return_state: whether to return X after the last token too; a loss may depend on it.
        return_states_every: C, to return X after each C tokens too, as `lightning_attn2` does; autograd saves
            what their gradients need.
        cu_seqlens: int32 [num_seqs + 1], where sequence i is tokens cu_seqlens[i] to cu_seqlens[i+1] − 1 of
            a batch of 1: from 0, never decreasing, to at most n (checked on the CPU). Rows beyond are zeros
            in o and in gradients. States are then [num_seqs, hq, head_dim, value_dim]. On a GPU, reading it
            synchronises, which `lightning_attn2` avoids.
        cp: how the tokens lie on the ranks of a group, of which q, k, v and o are then this rank's part.
        layout: "bhnd", or "bnhd" for q, k, v and o as [b, n, heads, dim].
        block_size: tokens per block, at least 1; it changes only speed and rounding.

    Returns:
        o [b, hq, n, value_dim] in the dtype of q, laid out in memory as v is where its last dim is
        contiguous, or as q is where several heads share one kv head; with return_state (o, state), the state
        in fp32, or in fp64 for fp64 inputs; with return_states_every (o, states) or (o, state, states), as
        `lightning_attn2` returns them.

    Raises:
        ValueError: if shapes, dtypes or devices do not fit together, or block_size or return_states_every is
            less than 1.
        NotImplementedError: if s requires a gradient.

    Source: Lightning Attention-2, arXiv 2401.04658.
    """
    call = Call(*heads_first(q, k, v, layout), s, initial_state, cu_seqlens, scale, return_state)
    every = 0 if return_states_every is None else check_every(return_states_every, cp)
    if cp is not None:
        call = local_call(call, cp)
    check_call(call)
    if not torch.compiler.is_compiling():  # traced tensors have no values
        check_values(call)
    if block_size < 1:
        raise ValueError(f"block_size must be at least 1, got {block_size}")
    dtype = autocast_dtype(q)
    if dtype is not None:
        call = call._replace(q=call.q.to(dtype), k=call.k.to(dtype), v=call.v.to(dtype))
    core = partial(_linear_attention, block_size=block_size)
    if cp is None:
        o, state = attend_by_core(core, call)
    else:
        passes = Passes(
            partial(core_forward, core),
            partial(unrecorded_backward, core),
            leaving_state_torch,
        )
        o, state = attend_across(call, cp, passes)
    if layout != "bhnd":
        o = o.transpose(1, 2)
    if not every:
        return o if state is None else (o, state)
    states = states_of_torch(StateCall(*call[1:6], call.q.shape[1], every))
    return (o, states) if state is None else (o, state, states)


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
    rate = slopes.to(torch.float64).clamp_max(STEEPEST)[:, None]  # [h, 1]

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
        query=power(token if reverse else token + 1)[:, None, :, None],
        key=power(block - token if reverse else block - 1 - token)[:, None, :, None],
        between=lower((turn[:, None] - turn[None, :] - 1) * block),
        entering=power(turn * block)[:, :, None],
        leaving=power((blocks - 1 - turn) * block)[:, None, :],
        whole=power(torch.full((1, 1), float(block * blocks), dtype=torch.float64, device=slopes.device)),
    )


def _segments(n: int, block: int, blocks: int) -> list[tuple[int, int, int]]:
    """Cut n tokens into (first token, tokens per block, blocks); the last block may be shorter."""
    span = block * blocks
    cuts = [(first, block, blocks) for first in range(0, n - n % span, span)]
    first = n - n % span
    if whole := (n - first) // block:
        cuts.append((first, block, whole))
    if rest := n % block:
        cuts.append((n - rest, rest, 1))
    return cuts


def _linear_attention(
    call: Call, out: Tensor, final: Tensor | None, *, reverse: bool, block_size: int
) -> None:
    """Write every sequence; with its `block_size` fixed, a `Core`."""
    q, k, v, slopes, initial, bounds, scale, _ = call
    ends: list[int] = [0, q.shape[2]] if bounds is None else bounds.tolist()
    autocast = autocast_dtype(q) is not None
    with torch.autocast(q.device.type, enabled=False) if autocast else nullcontext():
        for i, (first, end) in enumerate(pairwise(ends)):
            states = slice(None) if bounds is None else slice(i, i + 1)
            rows = (slice(None), slice(None), slice(first, end))
            entering = None if initial is None else initial[states]
            sequence = Call(q[rows], k[rows], v[rows], slopes, entering, None, scale)
            leaving = _sequence(sequence, out[rows], reverse, block_size)
            if final is not None:
                final[states] = 0.0 if leaving is None else leaving
        out[:, :, ends[-1] :] = 0.0


def _sequence(call: Call, out: Tensor, reverse: bool, block_size: int) -> Tensor | None:
    """Write one sequence of each batch entry and return the state that leaves it, None for zeros."""
    q, k, v, slopes, initial, _, scale, _ = call
    b, heads, n, e = out.shape
    d = q.shape[3]
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    state = None if initial is None else initial.to(dtype).contiguous()  # [b, heads, d, e]
    if b * heads * n * d * e == 0:
        return state
    block = min(block_size, n)
    limit = _SEGMENT_ELEMENTS.get(q.device.type, _SEGMENT_ELEMENTS_ELSEWHERE)
    blocks = max(1, limit // (b * heads * max(block * block, d * e, block * d, block * e)))
    blocks = min(blocks, n // block)
    cuts = _segments(n, block, blocks)
    rate = torch.zeros(heads, device=q.device) if slopes is None else slopes.reshape(-1)
    decays = {size: _decay(rate, *size, dtype, reverse) for size in {cut[1:] for cut in cuts}}
    for cut in reversed(cuts) if reverse else cuts:
        first, size, count = cut
        tokens = slice(first, first + size * count)
        rows_q, rows_k, rows_v = (_rows(x[:, :, tokens], heads, dtype) for x in (q, k, v))
        if reverse:
            rows_v = rows_v * scale
        else:
            rows_q = rows_q * scale
        part, state = _segment(rows_q, rows_k, rows_v, decays[size, count], count, state)
        out[:, :, tokens] = part
        state = state.view(b, heads, d, e)
    return state


def _rows(x: Tensor, heads: int, dtype: torch.dtype) -> Tensor:
    """Return x [b, h', n, ·] in `dtype` with each of its heads repeated up to `heads`."""
    x = x.to(dtype)
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], dim=1)


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
