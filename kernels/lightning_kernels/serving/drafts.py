"""Drafts of speculative decoding as values, and their checks."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..common.validate import check_slope_values, check_slopes, check_token_rows
from ..step.pool import check_pool, check_slot_values, check_vector, refuse_gradients


class Accepted(NamedTuple):
    """The tokens of a draft that was verified, and how many of them each sequence keeps."""

    k: Tensor
    """[b, kept, hk, head_dim]."""
    v: Tensor
    """[b, kept, hk, value_dim]."""
    num_accepted: Tensor
    """int32 [b]: the first so many are put into the state, from 0 to `kept`."""


class Draft(NamedTuple):
    """What is computed of a draft; q, k and v, or the last three of the tensors, may be None.

    In this order they are the operator's, but that it has the fields of `Accepted` one by one.
    """

    q: Tensor | None
    """[b, tokens, heads, head_dim]."""
    k: Tensor | None
    """[b, tokens, kv_heads, head_dim]; kv_heads divides heads."""
    v: Tensor | None
    """[b, tokens, kv_heads, value_dim]."""
    slopes: Tensor | None
    state: Tensor
    """The pool [slots, heads, head_dim, value_dim]; only accepted tokens change it."""
    state_indices: Tensor
    """int32 [b]: the slot of each sequence; below 0 it is padding."""
    accepted: Accepted | None
    rounding_seeds: Tensor | None
    """int64 [b]: seeds of stochastic rounding to a pool in bf16; None rounds to nearest."""
    scale: float = 1.0


def check_draft(draft: Draft, name: str) -> None:
    """Check that shapes, dtypes and devices fit together, without reading a value.

    Raises:
        ValueError: naming what is wrong and what is allowed.
        NotImplementedError: if a gradient is asked for.
    """
    q, k, v, slopes, state, indices, accepted, seeds, _ = draft
    heads = state.shape[1] if state.dim() == 4 else 1
    if q is not None and k is not None and v is not None:
        check_token_rows(q, k, v, ("batch", "tokens"))
        check_pool(state, q, v)
    if accepted is not None:
        kept_k, kept_v, count = accepted
        # As rows of q, of which a commit has none: it has the heads of the pool.
        rows = kept_k[..., :1, :].expand(*kept_k.shape[:-2], heads, -1) if kept_k.dim() == 4 else kept_k
        check_token_rows(rows, kept_k, kept_v, ("batch", "kept tokens"))
        check_pool(state, rows, kept_v)
        check_vector(count, "num_accepted", kept_k.shape[:1], torch.int32, state.device)
        if k is not None and (k.shape[0], *k.shape[2:]) != (kept_k.shape[0], *kept_k.shape[2:]):
            raise ValueError(
                "the accepted k must share batch, heads and head_dim with k, "
                f"got {tuple(kept_k.shape)} and {tuple(k.shape)}"
            )
        if k is not None and k.dtype != kept_k.dtype:
            raise ValueError(f"the accepted k must have the dtype of k, got {kept_k.dtype} and {k.dtype}")
    first = next(x for x in (q, None if accepted is None else accepted.k) if x is not None)
    check_vector(indices, "state_indices", first.shape[:1], torch.int32, state.device)
    if seeds is not None:
        check_vector(seeds, "rounding_seeds", first.shape[:1], torch.int64, state.device)
        if state.dtype != torch.bfloat16:
            raise ValueError(f"rounding_seeds are for states in bfloat16, got a pool in {state.dtype}")
    if slopes is not None:
        check_slopes(slopes, heads, state.device)
    some = (q, k, v, state, *(() if accepted is None else accepted[:2]))
    refuse_gradients(name, "lightning_attn2", tuple(x for x in some if x is not None))


def check_draft_values(draft: Draft) -> None:
    """Check the values of slopes, slots and numbers on the CPU; elsewhere reading them would synchronise.

    Raises:
        ValueError: if a slope is negative or not a number, a slot does not exist, two states would be written
            to one slot, or more tokens are accepted than there are.
    """
    check_slope_values(draft.slopes)
    if not draft.state_indices.is_cpu:
        return
    slots: list[int] = draft.state_indices.tolist()
    written: list[list[int]] = [[] for _ in slots]
    if draft.accepted is not None:
        counts: list[int] = draft.accepted.num_accepted.tolist()
        kept = draft.accepted.k.shape[1]
        used = [count for slot, count in zip(slots, counts, strict=True) if slot >= 0]
        if used and not 0 <= min(used) <= max(used) <= kept:
            raise ValueError(f"num_accepted must be from 0 to the {kept} kept tokens, got {counts}")
        written = [[slot] if count else [] for slot, count in zip(slots, counts, strict=True)]
    check_slot_values(slots, written, draft.state.shape[0])
