"""Speculative decoding against a pool of states in plain PyTorch, for CPUs."""

import torch
from torch import Tensor

from ..step.decode_step import lightning_attn2_step_torch
from ..step.rounding import round_stochastic
from .drafts import Accepted, Draft, check_draft, check_draft_values


def lightning_attn2_verify_torch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    s: Tensor | None = None,
    *,
    state: Tensor,
    state_indices: Tensor,
    accepted: Accepted | None = None,
    rounding_seeds: Tensor | None = None,
    scale: float = 1.0,
) -> Tensor:
    """Compute the tokens of a draft of each sequence in plain PyTorch, and keep no state of them.

    Arguments and result are those of `lightning_attn2_verify`, but for: any floating dtype and device; any
    dims of at least 1; any strides of the pool; for fp64 inputs the pool is fp64, and that is what it
    computes in. Elsewhere than on a CPU, reading the slots synchronises.

    Raises:
        ValueError: if shapes, dtypes or devices do not fit together, or on a CPU values do not.
        NotImplementedError: if a gradient is asked for; `lightning_attn2_torch` computes gradients.

    Source: the recurrence of Lightning Attention-2, arXiv 2401.04658.
    """
    draft = Draft(q, k, v, s, state, state_indices, accepted, rounding_seeds, scale)
    check_draft(draft, "lightning_attn2_verify_torch")
    check_draft_values(draft)
    with torch.no_grad():
        if accepted is not None:
            _commit(draft, accepted)
        o = torch.zeros((*q.shape[:3], v.shape[3]), dtype=q.dtype, device=q.device)
        some = state_indices >= 0
        x = _states(draft, some)
        for t in range(q.shape[1]):
            rows_q, rows_k, rows_v = (rows[some, t] for rows in (q, k, v))
            o[some, t] = lightning_attn2_step_torch(rows_q, rows_k, rows_v, s, state=x, scale=scale)
    return o


def lightning_attn2_commit_torch(
    k: Tensor,
    v: Tensor,
    s: Tensor | None = None,
    *,
    state: Tensor,
    state_indices: Tensor,
    num_accepted: Tensor,
    rounding_seeds: Tensor | None = None,
) -> None:
    """Put the accepted tokens of a verified draft into the states of a pool, in place, in plain PyTorch.

    Arguments are those of `lightning_attn2_commit`, with the exceptions of `lightning_attn2_verify_torch`.

    Raises:
        ValueError: if shapes, dtypes or devices do not fit together, or on a CPU values do not.
        NotImplementedError: if a gradient is asked for; `lightning_attn2_torch` computes gradients.

    Source: the recurrence of Lightning Attention-2, arXiv 2401.04658.
    """
    accepted = Accepted(k, v, num_accepted)
    draft = Draft(None, None, None, s, state, state_indices, accepted, rounding_seeds)
    check_draft(draft, "lightning_attn2_commit_torch")
    check_draft_values(draft)
    with torch.no_grad():
        _commit(draft, accepted)


def _commit(draft: Draft, accepted: Accepted) -> None:
    k, v, count = accepted
    for kept in range(1, k.shape[1] + 1):
        some = (draft.state_indices >= 0) & (count == kept)
        x = _states(draft, some)
        nothing = k.new_zeros(x.shape[0], x.shape[1], k.shape[3])  # what is computed for it is dropped
        for t in range(kept):
            lightning_attn2_step_torch(nothing, k[some, t], v[some, t], draft.slopes, state=x)
        if draft.rounding_seeds is not None:
            seeds = draft.rounding_seeds[some]
            x = round_stochastic(x, seeds, torch.full_like(seeds, kept))
        draft.state[draft.state_indices[some].long()] = x.to(draft.state.dtype)


def _states(draft: Draft, some: Tensor) -> Tensor:
    """Return copies of the states of some sequences, in fp32 or, for fp64 inputs, in fp64."""
    dtype = torch.float64 if draft.state.dtype == torch.float64 else torch.float32
    return draft.state[draft.state_indices[some].long()].to(dtype)
