"""A batch of prompts and decoding tokens against a pool of states in plain PyTorch, for CPUs."""

from itertools import pairwise

import torch
from torch import Tensor

from ..lightning2.blocked import lightning_attn2_torch
from ..step.rounding import round_stochastic
from .serve_call import ServeCall, Snapshots, check_serve_call, check_serve_values, operator_length


def lightning_attn2_serve_torch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    s: Tensor | None = None,
    *,
    state: Tensor,
    cu_seqlens: Tensor,
    state_indices: Tensor,
    output_state_indices: Tensor | None = None,
    has_initial_state: Tensor | None = None,
    context_lens: Tensor | None = None,
    snapshots: Snapshots | None = None,
    rounding_seeds: Tensor | None = None,
    max_seqlen: int | None = None,
    scale: float = 1.0,
) -> Tensor:
    """Compute a batch of prompts and decoding tokens against a pool of states in plain PyTorch, for CPUs.

    Arguments and result are those of `lightning_attn2_serve`, but for: any floating dtype and device; any
    dims of at least 1; any strides of the pool; for fp64 inputs the pool is fp64, and that is what it
    computes in. Elsewhere than on a CPU, reading the lengths and indices synchronises.

    Raises:
        ValueError: if shapes, dtypes or devices do not fit together, or on a CPU values do not.
        NotImplementedError: if a gradient is asked for; `lightning_attn2_torch` computes gradients.

    Source: the recurrence of Lightning Attention-2, arXiv 2401.04658.
    """
    call = ServeCall(
        q, k, v, s, state, cu_seqlens, state_indices, output_state_indices, has_initial_state, context_lens,
        None if snapshots is None else snapshots.indices, rounding_seeds,
        0 if snapshots is None else snapshots.every, operator_length(max_seqlen), scale,
    )  # fmt: skip
    check_serve_call(call, "lightning_attn2_serve_torch")
    check_serve_values(call)
    with torch.no_grad():
        return _serve(call)


def _serve(call: ServeCall) -> Tensor:
    q, v, pool = call.q, call.v, call.state
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    o = torch.zeros((q.shape[0], q.shape[1], v.shape[2]), dtype=q.dtype, device=q.device)
    slots: list[int] = call.state_indices.tolist()
    leaving = slots if call.output_state_indices is None else call.output_state_indices.tolist()
    begun = [True] * len(slots) if call.has_initial_state is None else call.has_initial_state.tolist()
    before = [0] * len(slots) if call.context_lens is None else call.context_lens.tolist()
    kept = [[] for _ in slots] if call.snapshot_indices is None else call.snapshot_indices.tolist()
    for i, (first, end) in enumerate(pairwise(call.cu_seqlens.tolist())):
        if slots[i] < 0 or first == end:
            continue
        x = pool[slots[i]].to(dtype) if begun[i] else torch.zeros_like(pool[0], dtype=dtype)
        done = first
        targets = _snapshots(kept[i], call.snapshot_every, before[i], end - first)
        for stop, slot in [*targets, (end - first, leaving[i])]:
            if first + stop > done:
                part = slice(done, first + stop)
                o[part], x = _walk(call, part, x)
                done = first + stop
            if slot >= 0:
                _save(call, i, x, slot, stop)
    return o


def _snapshots(slots: list[int], every: int, before: int, tokens: int) -> list[tuple[int, int]]:
    """Return after how many of the tokens a state is kept, and in which slot."""
    if not slots:
        return []
    stops = range(every - before % every, tokens + 1, every)
    return list(zip(stops, slots, strict=False))


def _walk(call: ServeCall, part: slice, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows of o and the state that leaves them, from the state that enters."""
    q, k, v = (tensor[None, part] for tensor in (call.q, call.k, call.v))
    with torch.autocast(call.q.device.type, enabled=False):
        o, x = lightning_attn2_torch(
            q, k, v, call.slopes, scale=call.scale, initial_state=x[None], return_state=True, layout="bnhd"
        )
    return o[0], x[0]


def _save(call: ServeCall, sequence: int, x: Tensor, slot: int, count: int) -> None:
    """Write a state to its slot, rounded as the call says."""
    if call.rounding_seeds is not None:
        seed = call.rounding_seeds[sequence : sequence + 1]
        x = round_stochastic(x[None], seed, torch.full_like(seed, count))[0]
    call.state[slot] = x
