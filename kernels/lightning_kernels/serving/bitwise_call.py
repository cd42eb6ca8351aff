"""One call of `lightning_attn2_serve_bitwise` as a value, its tails and its checks."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..common.validate import check_dims
from ..lightning2.tiles import LARGEST_SHARED_BYTES, lightning2_tiles
from .serve_call import ServeCall, check_serve_call, check_serve_values


class Tails(NamedTuple):
    """The tokens since the last whole block of each slot of a pool: `make_tails` allocates them."""

    k: Tensor
    """[slots, hq, splits, block, head_dim]."""
    v: Tensor
    """[slots, hq, block, value_dim]."""


def make_tails(
    slots: int, heads: int, head_dim: int, value_dim: int, dtype: torch.dtype, device: torch.device | str
) -> Tails:
    """Allocate the tails of a pool for `lightning_attn2_serve_bitwise`.

    Args:
        slots: of the pool.
        heads: of the queries.
        head_dim: from 1 to 256.
        value_dim: from 1 to 256.
        dtype: of q, k and v. For 16-bit dtypes a block has 64 tokens, with a head_dim above 128 it has 32;
            else 16.
        device: of the pool.

    Raises:
        ValueError: for other dims.
    """
    check_dims(head_dim, value_dim, "make_tails")
    block, splits = tail_shape(head_dim, value_dim, dtype)
    k = torch.empty(slots, heads, splits, block, head_dim, dtype=dtype, device=device)
    return Tails(k, torch.empty(slots, heads, block, value_dim, dtype=dtype, device=device))


def tail_shape(head_dim: int, value_dim: int, dtype: torch.dtype) -> tuple[int, int]:
    """Return the tokens of a block, and into how many programs its columns are split, each with its own k."""
    tiles = lightning2_tiles(head_dim, value_dim, dtype, LARGEST_SHARED_BYTES)
    return tiles.block, tiles.split_e


class BitwiseCall(NamedTuple):
    """What `lightning_attn2_serve_bitwise` is given, in the order of the operator's schema."""

    q: Tensor
    """[tokens, heads, head_dim]."""
    k: Tensor
    """[tokens, kv_heads, head_dim]; kv_heads divides heads."""
    v: Tensor
    """[tokens, kv_heads, value_dim]."""
    slopes: Tensor | None
    state: Tensor
    """The pool [slots, heads, head_dim, value_dim] of states before the last incomplete block, updated."""
    k_tails: Tensor
    v_tails: Tensor
    cu_seqlens: Tensor
    """int32 [num_seqs + 1]."""
    state_indices: Tensor
    """int32 [num_seqs]: the slot that a sequence begins with; below 0 it is padding."""
    context_lens: Tensor
    """int32 [num_seqs]: tokens of the sequence before this call."""
    output_state_indices: Tensor | None
    """int32 [num_seqs]: the slot that it leaves; below 0 for none."""
    snapshot_indices: Tensor | None
    """int32 [num_seqs, n]: see `Snapshots`."""
    snapshot_every: int
    scale: float

    def as_serve_call(self) -> ServeCall:
        """Return the call without its tails."""
        return ServeCall(
            self.q, self.k, self.v, self.slopes, self.state, self.cu_seqlens, self.state_indices,
            self.output_state_indices, None, self.context_lens, self.snapshot_indices, None,
            self.snapshot_every, 0, self.scale,
        )  # fmt: skip

    def for_kernels(self) -> "BitwiseCall":
        """Return the call as kernels read it: contiguous vectors, fp32 slopes, a float scale."""
        plain = self.as_serve_call().for_kernels()
        context_lens = self.context_lens if plain.context_lens is None else plain.context_lens
        return self._replace(
            slopes=plain.slopes,
            cu_seqlens=plain.cu_seqlens,
            state_indices=plain.state_indices,
            context_lens=context_lens,
            output_state_indices=plain.output_state_indices,
            snapshot_indices=plain.snapshot_indices,
            scale=plain.scale,
        )


def check_bitwise_call(call: BitwiseCall, name: str) -> None:
    """Check that shapes, dtypes and devices fit together, without reading a value.

    Raises:
        ValueError: naming what is wrong and what is allowed.
        NotImplementedError: if a gradient is asked for.
    """
    check_serve_call(call.as_serve_call(), name)
    q, v, state = call.q, call.v, call.state
    if state.dtype == torch.bfloat16:
        raise ValueError(
            f"{name} takes a pool in float32, since rounding would depend on calls, got bfloat16"
        )
    slots, heads, head_dim, value_dim = state.shape
    block, splits = tail_shape(head_dim, value_dim, q.dtype)
    shapes = (slots, heads, splits, block, head_dim), (slots, heads, block, value_dim)
    for label, tail, shape in zip("kv", (call.k_tails, call.v_tails), shapes, strict=True):
        if tail.shape != shape or tail.dtype != v.dtype or tail.stride(-1) != 1:
            raise ValueError(
                f"the tails of {label} must be {v.dtype} {list(shape)} of contiguous last dim, as make_tails "
                f"allocates them, got {tail.dtype} {list(tail.shape)} with strides {tail.stride()}"
            )
        if tail.device != q.device:
            raise ValueError(f"tails must be on the device of q, got {tail.device} and {q.device}")
    if call.snapshot_indices is not None and call.snapshot_every % block:
        raise ValueError(
            f"snapshots must be every multiple of {block} tokens, a block, got {call.snapshot_every}"
        )


def check_bitwise_values(call: BitwiseCall) -> None:
    """Check values on the CPU as `check_serve_values`; a new sequence begins with the state of no slot.

    Raises:
        ValueError: naming what is wrong.
    """
    begun = call.context_lens > 0 if call.context_lens.is_cpu else None
    check_serve_values(call.as_serve_call()._replace(has_initial_state=begun))
