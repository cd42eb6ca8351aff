"""Batches with the same bits however tokens come to be in calls, in plain PyTorch, for CPUs."""

from itertools import pairwise

import torch
from torch import Tensor

from ..lightning2.tiles import STEEPEST
from .bitwise_call import BitwiseCall, Tails, check_bitwise_call, check_bitwise_values, tail_shape
from .serve_call import Snapshots


def lightning_attn2_serve_bitwise_torch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    s: Tensor | None = None,
    *,
    state: Tensor,
    tails: Tails,
    cu_seqlens: Tensor,
    state_indices: Tensor,
    context_lens: Tensor,
    output_state_indices: Tensor | None = None,
    snapshots: Snapshots | None = None,
    scale: float = 1.0,
) -> Tensor:
    """Compute a batch of prompts and decoding tokens with the same bits however tokens come to be in calls.

    Arguments and result are those of `lightning_attn2_serve_bitwise`, but for: any floating dtype and device;
    any strides of the pool; for fp64 inputs the pool is fp64, and that is what it computes in. Elsewhere than
    on a CPU, reading the lengths and indices synchronises.

    Raises:
        ValueError: if shapes, dtypes or devices do not fit together, or on a CPU values do not.
        NotImplementedError: if a gradient is asked for; `lightning_attn2_torch` computes gradients.

    Source: the blocks of Lightning Attention-2, arXiv 2401.04658.
    """
    call = BitwiseCall(
        q, k, v, s, state, tails.k, tails.v, cu_seqlens, state_indices, context_lens, output_state_indices,
        None if snapshots is None else snapshots.indices, 0 if snapshots is None else snapshots.every, scale,
    )  # fmt: skip
    check_bitwise_call(call, "lightning_attn2_serve_bitwise_torch")
    check_bitwise_values(call)
    with torch.no_grad(), torch.autocast(q.device.type, enabled=False):
        return _serve(call)


def _serve(call: BitwiseCall) -> Tensor:
    q, v = call.q, call.v
    o = torch.zeros((q.shape[0], q.shape[1], v.shape[2]), dtype=q.dtype, device=q.device)
    slots: list[int] = call.state_indices.tolist()
    leaving = slots if call.output_state_indices is None else call.output_state_indices.tolist()
    kept = [[] for _ in slots] if call.snapshot_indices is None else call.snapshot_indices.tolist()
    before: list[int] = call.context_lens.tolist()
    for i, (first, end) in enumerate(pairwise(call.cu_seqlens.tolist())):
        if slots[i] >= 0 and first < end:
            o[first:end] = _sequence(call, slice(first, end), before[i], slots[i], leaving[i], kept[i])
    return o


def _sequence(
    call: BitwiseCall, part: slice, before: int, slot: int, out_slot: int, kept_slots: list[int]
) -> Tensor:
    """Take one sequence through its new tokens from its last incomplete block on; return their rows of o."""
    block, _ = tail_shape(call.q.shape[2], call.v.shape[2], call.q.dtype)
    kept = before % block
    q, k, v = (x[part].transpose(0, 1) for x in call[:3])  # [heads or kv_heads, n, ·]
    k, v = (x.repeat_interleave(q.shape[0] // x.shape[0], 0) for x in (k, v))
    k = torch.cat([call.k_tails[slot, :, 0, :kept], k], 1)
    v = torch.cat([call.v_tails[slot, :, :kept], v], 1)
    q = torch.cat([torch.zeros_like(k[:, :kept]), q], 1)
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    x = call.state[slot].to(dtype) if before >= block else torch.zeros_like(call.state[0], dtype=dtype)
    weights = _weights(call.slopes, q.shape[0], block, dtype, q.device)
    rows, done = [], before - kept
    for start in range(0, k.shape[1], block):
        tokens = slice(start, start + block)
        rows_q, rows_k, rows_v = (_padded(y[:, tokens].to(dtype), block) for y in (q, k, v))
        o, after = _block(rows_q, rows_k, rows_v, x, weights)
        rows.append(o)
        if start + block <= k.shape[1]:
            x, done = after, done + block
            if kept_slots and done % call.snapshot_every == 0:
                target = kept_slots.pop(0)
                if target >= 0:
                    call.state[target] = x
    if out_slot >= 0:
        call.state[out_slot] = x
        left = k.shape[1] % block
        call.k_tails[out_slot, :, :, :left] = k[:, None, k.shape[1] - left :]
        call.v_tails[out_slot, :, :left] = v[:, v.shape[1] - left :]
    o = torch.cat(rows, 1)[:, kept : k.shape[1]] * call.scale
    return o.transpose(0, 1).to(call.q.dtype)


def _weights(
    slopes: Tensor | None, heads: int, block: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return λ^(i−j) [heads, B, B], λ^(i+1) and λ^(B−1−j) [heads, B, 1], and λ^B [heads, 1, 1]."""
    rate = torch.zeros(heads, device=device) if slopes is None else slopes.reshape(-1)
    rate = rate.to(torch.float64).clamp_max(STEEPEST)[:, None, None]
    row = torch.arange(block, dtype=torch.float64, device=device)[:, None]
    distance = row - row.T
    within = torch.exp(-rate * distance.clamp_min(0)) * (distance >= 0)
    others = (torch.exp(-rate * (row + 1)), torch.exp(-rate * (block - 1 - row)), torch.exp(-rate * block))
    return within.to(dtype), others[0].to(dtype), others[1].to(dtype), others[2].to(dtype)


def _block(
    q: Tensor, k: Tensor, v: Tensor, x: Tensor, weights: tuple[Tensor, Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Return o of a block [heads, B, ·] and the state after it, from the state x before it."""
    within, read, write, whole = weights
    o = (q @ k.mT * within) @ v + read * (q @ x)
    return o, whole * x + (write * k).mT @ v


def _padded(x: Tensor, rows: int) -> Tensor:
    """Return x [heads, n, ·] with zeros up to so many rows: products of one shape sum in one order."""
    return torch.nn.functional.pad(x, (0, 0, 0, rows - x.shape[1])).contiguous()
