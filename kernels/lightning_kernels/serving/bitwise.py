"""Batches with the same bits however tokens come to be in calls: public function and operator."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from .._ops import add_op_namespace_prefix, ops
from ..common.allocate import empty_rows
from ..common.flops import register_step_flops
from ..step.pool import check_kernel_dtype, check_kernel_pool
from .bitwise_call import BitwiseCall, Tails, check_bitwise_call, check_bitwise_values
from .serve_call import Snapshots

if TYPE_CHECKING:
    from collections.abc import Callable


def lightning_attn2_serve_bitwise(
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
    """Compute a batch of prompts and decoding tokens, with the same bits however tokens come to be in calls.

    A row of o has the same bits whether its token is decoded or part of a prompt, whatever the chunks of
    the prompt, and whatever else is in the batch. Sums go by blocks that begin at multiples of so many tokens
    of a sequence. A slot of the pool therefore holds the state before the last block that is not complete,
    and `tails` the keys and values of the tokens since: only this function reads such a pool. One launch;
    nothing waits for the GPU.

    Args:
        q: queries [tokens, hq, head_dim] in float32, float16 or bfloat16, head_dim from 1 to 256. Any
            strides; a copy of q, k or v is made only if its last dim is not contiguous.
        k: keys [tokens, hk, head_dim], hq a multiple of hk: query head i reads kv head i // (hq // hk).
        v: values [tokens, hk, value_dim], value_dim from 1 to 256.
        s: slopes per token [hq] or [hq, 1, 1], s ≥ 0 (not checked on a GPU); None means no decay.
        state: the pool [slots, hq, head_dim, value_dim] in float32, of contiguous last dim, updated in place.
        tails: of the pool, from `make_tails`, updated in place. Neither needs to be cleared.
        cu_seqlens: int32 [num_seqs + 1], where sequence i is tokens cu_seqlens[i] to cu_seqlens[i+1] − 1:
            from 0, never decreasing, to at most `tokens`. A sequence without tokens leaves the pool as it is.
        state_indices: int32 [num_seqs], the slot that each sequence begins with. Below 0 the sequence is
            padding: its rows of o are zeros, and it writes nothing.
        context_lens: int32 [num_seqs], tokens of each sequence before this call; with 0 it begins with zeros,
            whatever its slot holds.
        output_state_indices: int32 [num_seqs], the slot that each sequence leaves, below 0 for none; None
            means `state_indices`. No slot may be written twice in a call, nor be one that another sequence
            begins with.
        snapshots: which states in between are kept, and in which slots, every multiple of a block's tokens.
        scale: what o is multiplied by; the state does not see it.

    Returns:
        o [tokens, hq, value_dim] in the dtype of q, contiguous; rows beyond cu_seqlens[-1] are zeros.

    Raises:
        ValueError: if shapes, dtypes, dims, strides or devices are not as above, or the tensors are not on a
            GPU. Values are checked on the CPU only.
        NotImplementedError: if a gradient is asked for; `lightning_attn2` computes gradients.
        ModuleNotFoundError: if triton is not installed.

    Source: the blocks of Lightning Attention-2, arXiv 2401.04658.
    """
    call = BitwiseCall(
        q, k, v, s, state, tails.k, tails.v, cu_seqlens, state_indices, context_lens, output_state_indices,
        None if snapshots is None else snapshots.indices, 0 if snapshots is None else snapshots.every, scale,
    )  # fmt: skip
    check_kernel_dtype(q, "lightning_attn2_serve_bitwise")
    check_bitwise_call(call, "lightning_attn2_serve_bitwise")
    check_kernel_pool(q, v, state, "lightning_attn2_serve_bitwise")
    return _serve_bitwise(*call)


def _run(*fields: object) -> Tensor:
    from .bitwise_kernel import serve_bitwise

    call = BitwiseCall(*fields)  # type: ignore[arg-type]
    check_bitwise_values(call)
    o = serve_bitwise(call)
    increment_version((call.state, call.k_tails, call.v_tails))
    return o


# The low-level API: torch.library.custom_op costs a call several times as much on the host.
_LIBRARY = torch.library.Library(ops.name, "FRAGMENT")
_LIBRARY.define(
    "linear_attention_serve_bitwise(Tensor q, Tensor k, Tensor v, Tensor? slopes, Tensor(a!) state, "
    "Tensor(b!) k_tails, Tensor(c!) v_tails, Tensor cu_seqlens, Tensor state_indices, Tensor context_lens, "
    "Tensor? output_state_indices, Tensor? snapshot_indices, int snapshot_every, float scale) -> Tensor"
)
_LIBRARY.impl("linear_attention_serve_bitwise", _run, "CUDA")
_LIBRARY.impl("linear_attention_serve_bitwise", _run, "CPU")
torch.library.register_fake(
    add_op_namespace_prefix("linear_attention_serve_bitwise"), empty_rows, lib=_LIBRARY
)
_serve_bitwise: "Callable[..., Tensor]" = ops.linear_attention_serve_bitwise.default
register_step_flops(ops.linear_attention_serve_bitwise)
