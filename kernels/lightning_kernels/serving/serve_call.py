"""One call of `lightning_attn2_serve` as a value, and its checks."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..common.validate import (
    check_bound_values,
    check_bounds,
    check_slope_values,
    check_slopes,
    check_token_rows,
)
from ..step.pool import check_pool, check_slot_values, check_vector, refuse_gradients

_VECTORS = {
    "state_indices": torch.int32,
    "output_state_indices": torch.int32,
    "has_initial_state": torch.bool,
    "context_lens": torch.int32,
    "rounding_seeds": torch.int64,
}


class Snapshots(NamedTuple):
    """Which states of a call are kept besides the final ones, as caches of prefixes need them.

    They are those after every `every` tokens of a sequence, counted from its first token: tokens of earlier
    calls (`context_lens`) count too.
    """

    every: int
    """At least 1; a multiple of 64 costs the least time."""
    indices: Tensor
    """int32 [num_seqs, n]: column j has the slot of the (j + 1)-th of them in this call, below 0 for none.

    Those beyond the last column are not kept.
    """


class ServeCall(NamedTuple):
    """What `lightning_attn2_serve` is given, in the order of the operator's schema."""

    q: Tensor
    """[tokens, heads, head_dim]."""
    k: Tensor
    """[tokens, kv_heads, head_dim]; kv_heads divides heads."""
    v: Tensor
    """[tokens, kv_heads, value_dim]."""
    slopes: Tensor | None
    state: Tensor
    """The pool [slots, heads, head_dim, value_dim], which is updated."""
    cu_seqlens: Tensor
    """int32 [num_seqs + 1]."""
    state_indices: Tensor
    """int32 [num_seqs]: the slot of the state that a sequence begins with; below 0 it is padding."""
    output_state_indices: Tensor | None
    """int32 [num_seqs]: the slot of the state that it leaves; below 0 for none."""
    has_initial_state: Tensor | None
    """bool [num_seqs]."""
    context_lens: Tensor | None
    """int32 [num_seqs]: tokens of the sequence before this call."""
    snapshot_indices: Tensor | None
    """int32 [num_seqs, n]: see `Snapshots`."""
    rounding_seeds: Tensor | None
    """int64 [num_seqs]: seeds of stochastic rounding to a pool in bf16; None rounds to nearest."""
    snapshot_every: int
    max_seqlen: int
    """0 where it is not known."""
    scale: float

    def vectors(self) -> dict[str, Tensor]:
        """Return, by their names, those of the tensors [num_seqs] that are given."""
        named = {name: getattr(self, name) for name in _VECTORS}
        return {name: vector for name, vector in named.items() if vector is not None}

    def for_kernels(self) -> "ServeCall":
        """Return the call as kernels read it: contiguous vectors, fp32 slopes, a float scale."""
        slopes = self.slopes
        return self._replace(
            slopes=None if slopes is None else slopes.to(torch.float32).contiguous(),
            cu_seqlens=self.cu_seqlens.contiguous(),
            state_indices=self.state_indices.contiguous(),
            output_state_indices=_contiguous(self.output_state_indices),
            has_initial_state=_contiguous(self.has_initial_state),
            context_lens=_contiguous(self.context_lens),
            snapshot_indices=_contiguous(self.snapshot_indices),
            rounding_seeds=_contiguous(self.rounding_seeds),
            scale=float(self.scale),
        )


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def operator_length(max_seqlen: int | None) -> int:
    """Return `max_seqlen` as the operator takes it, 0 where it is not known. ValueError if it is below 1."""
    if max_seqlen is not None and max_seqlen < 1:
        raise ValueError(f"max_seqlen must be at least 1, or None where it is not known, got {max_seqlen}")
    return max_seqlen or 0


def check_serve_call(call: ServeCall, name: str) -> None:
    """Check that shapes, dtypes and devices fit together, without reading a value.

    Raises:
        ValueError: naming what is wrong and what is allowed.
        NotImplementedError: if a gradient is asked for.
    """
    q, v, snapshots = call.q, call.v, call.snapshot_indices
    check_token_rows(q, call.k, v, ("tokens",))
    check_pool(call.state, q, v)
    check_bounds(call.cu_seqlens, q.device)
    sequences = call.cu_seqlens.shape[0] - 1
    for label, vector in call.vectors().items():
        check_vector(vector, label, (sequences,), _VECTORS[label], q.device)
    if snapshots is not None:
        columns = snapshots.shape[1] if snapshots.dim() == 2 else 1
        check_vector(snapshots, "the indices of snapshots", (sequences, columns), torch.int32, q.device)
        if call.snapshot_every < 1:
            raise ValueError(f"snapshots are taken every 1 or more tokens, got {call.snapshot_every}")
    if call.rounding_seeds is not None and call.state.dtype != torch.bfloat16:
        raise ValueError(f"rounding_seeds are for states in bfloat16, got a pool in {call.state.dtype}")
    if call.slopes is not None:
        check_slopes(call.slopes, q.shape[1], q.device)
    refuse_gradients(name, "lightning_attn2", (q, call.k, v, call.state))


def check_serve_values(call: ServeCall) -> None:
    """Check the values of slopes, bounds and slots on the CPU; elsewhere reading them would synchronise.

    Raises:
        ValueError: if a slope is negative or not a number, bounds are not in order, `context_lens` are below
            0, a slot does not exist, two states would be written to one slot, or one to a slot that another
            sequence begins with.
    """
    check_slope_values(call.slopes)
    if not call.cu_seqlens.is_cpu:
        return
    check_bound_values(call.cu_seqlens, call.q.shape[0])
    bounds = call.cu_seqlens
    used = (call.state_indices >= 0) & (bounds[1:] > bounds[:-1])
    if call.context_lens is not None and (used & (call.context_lens < 0)).any():
        raise ValueError(f"context_lens must be at least 0, got {call.context_lens.tolist()}")
    begun = used if call.has_initial_state is None else used & call.has_initial_state
    read = torch.where(begun, call.state_indices, -1).tolist()
    left = call.state_indices if call.output_state_indices is None else call.output_state_indices
    written = [[slot] for slot in torch.where(used, left, -1).tolist()]
    if call.snapshot_indices is not None:
        for slots, crossed, row in zip(written, crossings(call), call.snapshot_indices.tolist(), strict=True):
            slots += row[:crossed]
    check_slot_values(read, written, call.state.shape[0])


def crossings(call: ServeCall) -> list[int]:
    """Return how many snapshots each sequence passes in the call, reading `cu_seqlens` and `context_lens`."""
    lengths = call.cu_seqlens[1:] - call.cu_seqlens[:-1]
    before = torch.zeros_like(lengths) if call.context_lens is None else call.context_lens
    passed: list[int] = ((before % call.snapshot_every + lengths) // call.snapshot_every).tolist()
    return passed
