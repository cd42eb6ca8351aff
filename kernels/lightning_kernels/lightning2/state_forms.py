"""States of Lightning Attention-2 without o: public functions, in Triton and in plain PyTorch."""

from contextlib import nullcontext
from itertools import pairwise

import torch
from torch import Tensor

from ..common.call import Call
from ..common.validate import (
    autocast_dtype,
    check_call,
    check_kernel_call,
    check_values,
    heads_first,
)
from .state_call import StateCall
from .tiles import STEEPEST

_CHUNK = 1024
"""Tokens that are summed up at once where only the last state is wanted."""


def lightning_attn2_state(
    k: Tensor,
    v: Tensor,
    s: Tensor | None = None,
    *,
    initial_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    layout: str = "bhnd",
) -> Tensor:
    """Compute the state after the last token from keys and values only, on a GPU.

    X_t = exp(−s) · X_{t−1} + k_tᵀ v_t,   X_{−1} = initial_state

    It is the second result of `lightning_attn2(..., return_state=True)`, for half of the work: k and v are
    read once, and nothing of their size is written. Chunks of tokens are summed up at the same time and then
    combined. The gradients of k, v and the initial state read k and v once more. It is one operator to
    torch.compile, casts k and v under autocast, and runs on every GPU by the same kernels.

    Args:
        k: keys [b, hk, n, head_dim] in float32, float16 or bfloat16, head_dim from 1 to 256. Any strides; a
            copy is made only if the last dim is not contiguous.
        v: values [b, hk, n, value_dim], value_dim from 1 to 256.
        s: slopes per token [h, 1, 1] or [h], s ≥ 0 (not checked on a GPU), h a multiple of hk: the state of
            head i is that of kv head i // (h // hk). None means no decay.
        initial_state: X before the first token [b, h, head_dim, value_dim], any floating dtype and strides;
            None means zeros. Without s it decides on h; without both h is hk.
        cu_seqlens: int32 [num_seqs + 1], as in `lightning_attn2`; states are then [num_seqs, h, ...].
        layout: "bhnd", or "bnhd" for k and v as [b, n, heads, dim].

    Returns:
        the state [b or num_seqs, h, head_dim, value_dim] in fp32; that of a sequence without tokens is its
        initial state.

    Raises:
        ValueError: if shapes, dtypes, dims or devices are not as above, or the tensors are not on a GPU of
            NVIDIA.
        NotImplementedError: if s requires a gradient, for forward-mode derivatives, and for gradients of
            gradients.
        ModuleNotFoundError: if triton is not installed.

    Source: Lightning Attention-2, arXiv 2401.04658.
    """
    return states_of(_given(k, v, s, initial_state, cu_seqlens, layout), "lightning_attn2_state")


def lightning_attn2_state_torch(
    k: Tensor,
    v: Tensor,
    s: Tensor | None = None,
    *,
    initial_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    layout: str = "bhnd",
) -> Tensor:
    """Compute the state after the last token from keys and values only, in plain PyTorch.

    Arguments and result are those of `lightning_attn2_state`, but for: any floating dtype, dims and device;
    the state is fp64 for fp64 inputs; values of s and cu_seqlens are checked on the CPU, and reading
    cu_seqlens synchronises with a GPU; derivatives of any order and mode.

    Raises:
        ValueError: if shapes, dtypes or devices do not fit together.
        NotImplementedError: if s requires a gradient.

    Source: Lightning Attention-2, arXiv 2401.04658.
    """
    return states_of_torch(_given(k, v, s, initial_state, cu_seqlens, layout))


def _given(
    k: Tensor,
    v: Tensor,
    s: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    layout: str,
) -> StateCall:
    """Return the call, checked but for what only kernels demand."""
    for name, x in (("k", k), ("v", v)):
        if x.dim() != 4:
            raise ValueError(
                f"{name} must be [batch, heads, seq_len, dim], or [batch, seq_len, heads, dim] with "
                f'layout="bnhd", got shape {tuple(x.shape)}'
            )
    _, k, v = heads_first(k, k, v, layout)
    heads = k.shape[1]
    if s is not None and s.dim() > 0:
        heads = s.shape[0]
    elif initial_state is not None and initial_state.dim() == 4:
        heads = initial_state.shape[1]
    if heads != k.shape[1] and (k.shape[1] == 0 or heads % k.shape[1]):
        raise ValueError(
            f"the heads of s or of initial_state must be a multiple of those of k and v, got {heads} and "
            f"{k.shape[1]}"
        )
    like_q = k if heads == k.shape[1] else k[:, :1].expand(-1, heads, -1, -1)
    check_call(Call(like_q, k, v, s, initial_state, cu_seqlens))
    return StateCall(k, v, s, initial_state, cu_seqlens, heads, 0)


def states_of(call: StateCall, name: str) -> Tensor:
    """Compute the states of a call that has passed `check_call`, by the operator.

    Raises:
        ValueError: for what the kernels do not take.
    """
    check_kernel_call(Call(call.k, call.k, call.v), name)
    from .state_operator import linear_attention_states

    return linear_attention_states(*call)


def states_of_torch(call: StateCall) -> Tensor:
    """Compute the states of a call that has passed `check_call`, by PyTorch operations."""
    k, v, slopes, initial, bounds, heads, every = call[:7]
    if not torch.compiler.is_compiling():  # traced tensors have no values
        check_values(Call(k, k, v, slopes, None, bounds))
    cast = autocast_dtype(k)
    if cast is not None:
        k, v = k.to(cast), v.to(cast)
    dtype = torch.float64 if k.dtype == torch.float64 else torch.float32
    rate = torch.zeros(heads, device=k.device) if slopes is None else slopes.reshape(-1)
    ends: list[int] = [0, k.shape[2]] if bounds is None else bounds.tolist()
    found: list[Tensor] = []
    with torch.autocast(k.device.type, enabled=False) if cast is not None else nullcontext():
        for i, (first, end) in enumerate(pairwise(ends)):
            rows = slice(None), slice(None), slice(first, end)
            count = k.shape[0] if bounds is None else 1
            state = k.new_zeros((count, heads, k.shape[3], v.shape[3]), dtype=dtype)
            if initial is not None:
                state = (initial if bounds is None else initial[i : i + 1]).to(dtype)
            after = _walk(k[rows], v[rows], rate, state, every or _CHUNK)
            if not every:
                found.append(after[-1] if after else state)
                continue
            if bounds is not None:  # up to the first place of the next sequence
                after += [torch.zeros_like(state)] * (end // every - first // every + 1 - len(after))
            found += after
        if not every:
            return torch.cat(found) if found else k.new_zeros(call.shape(), dtype=dtype)
        missing = call.places(every) - len(found)
        shape = (k.shape[0], heads, k.shape[3], v.shape[3])
        found += [k.new_zeros(shape, dtype=dtype)] * missing
        return torch.stack(found, dim=2) if found else k.new_zeros(call.shape(), dtype=dtype)


def leaving_state_torch(call: Call, reverse: bool) -> Tensor:
    """Compute only the state that leaves a call of one sequence per batch entry, or a reverse one (`Core`).

    Of q only the number of heads counts.
    """
    q, k, v, slopes, initial, _, scale, _ = call
    heads = q.shape[1]
    if not reverse:
        return states_of_torch(StateCall(k, v, slopes, initial, None, heads, 0))
    # From its end the walk is one from the beginning, whose tokens decay once more.
    v = v.flip(2).to(torch.float64 if v.dtype == torch.float64 else torch.float32) * scale
    if slopes is not None:
        v = v * torch.exp(-slopes.to(torch.float64).reshape(-1, 1, 1)).to(v.dtype)
    return states_of_torch(StateCall(k.flip(2).to(v.dtype), v, slopes, initial, None, heads, 0))


def _walk(k: Tensor, v: Tensor, rate: Tensor, state: Tensor, every: int) -> list[Tensor]:
    """Return the states after each `every` tokens and after the last, from the one before the first."""
    heads, dtype = state.shape[1], state.dtype
    group = heads // k.shape[1] if k.shape[1] else 1
    slopes = rate.to(torch.float64).clamp_max(STEEPEST)[:, None]  # [h, 1]
    after: list[Tensor] = []
    for first in range(0, k.shape[2], every):
        tokens = min(every, k.shape[2] - first)
        rows = slice(None), slice(None), slice(first, first + tokens)
        rows_k, rows_v = (x[rows].to(dtype).repeat_interleave(group, 1) for x in (k, v))
        age = torch.arange(tokens - 1, -1, -1, dtype=torch.float64, device=k.device)
        weighted = rows_k * torch.exp(-slopes * age).to(dtype)[:, :, None]  # [b, h, tokens, d]
        decay = torch.exp(-slopes * tokens).to(dtype)[:, :, None]
        state = decay * state + weighted.mT @ rows_v
        after.append(state)
    return after
