"""A batch of prompts and decoding tokens against a pool of states: public function and operator."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from .._ops import add_op_namespace_prefix, ops
from ..common.allocate import empty_rows
from ..common.flops import register_step_flops
from ..step.pool import check_kernel_dtype, check_kernel_pool
from .serve_call import ServeCall, Snapshots, check_serve_call, check_serve_values, operator_length

if TYPE_CHECKING:
    from collections.abc import Callable


def lightning_attn2_serve(
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
    """Compute a batch of prompts and decoding tokens against a pool of states, in one launch.

    o_t = scale · q_t · X_t,   X_t = exp(−s) · X_{t−1} + k_tᵀ v_t

    for each sequence i of the packed batch, which begins with X_{−1} = state[state_indices[i]] and leaves its
    last X in state[output_state_indices[i]]. Lengths and indices stay on the GPU: nothing waits for it, and
    the call can be captured in a CUDA graph whose batches are padded. It is one operator to torch.compile.

    Args:
        q: queries [tokens, hq, head_dim] in float32, float16 or bfloat16, head_dim from 1 to 256. Any
            strides; a copy of q, k or v is made only if its last dim is not contiguous.
        k: keys [tokens, hk, head_dim], hq a multiple of hk: query head i reads kv head i // (hq // hk).
        v: values [tokens, hk, value_dim], value_dim from 1 to 256.
        s: slopes per token [hq] or [hq, 1, 1], s ≥ 0 (not checked on a GPU); None means no decay.
        state: the pool [slots, hq, head_dim, value_dim] in float32 or bfloat16, of contiguous last dim,
            updated in place. Slots that no index names are neither read nor written.
        cu_seqlens: int32 [num_seqs + 1], where sequence i is tokens cu_seqlens[i] to cu_seqlens[i+1] − 1:
            from 0, never decreasing, to at most `tokens`. A sequence without tokens leaves the pool as it is.
        state_indices: int32 [num_seqs], the slot that each sequence begins with; several may begin with one.
            Below 0 the sequence is padding: its rows of o are zeros, and it writes no state.
        output_state_indices: int32 [num_seqs], the slot for the state of each sequence, below 0 for none;
            None means `state_indices`. No slot may be written twice in a call, nor be one that another
            sequence begins with.
        has_initial_state: bool [num_seqs]; a sequence where it is False begins with zeros, whatever its slot
            holds. None means that all have one.
        context_lens: int32 [num_seqs], tokens of each sequence before this call. Only `snapshots` need it;
            None means that there were none.
        snapshots: which states in between are kept, and in which slots.
        rounding_seeds: int64 [num_seqs], for a pool in bfloat16: states are rounded stochastically, by random
            bits that depend on the seed of the sequence and on nothing else of the batch. Take another seed
            for each call. None rounds to nearest.
        max_seqlen: the most tokens that a sequence has, at least 1, if it is known on the host. It changes no
            result; up to 8, as in a batch that only decodes, the launch has the programs of a decoding step.
        scale: what o is multiplied by; the state does not see it.

    Returns:
        o [tokens, hq, value_dim] in the dtype of q, contiguous; rows beyond cu_seqlens[-1] are zeros.

    Raises:
        ValueError: if shapes, dtypes, dims, strides of the pool or devices are not as above, or the tensors
            are not on a GPU. Values are checked on the CPU only: on a GPU a slot that the pool does not have
            is an access to memory that is not its own.
        NotImplementedError: if a gradient is asked for; `lightning_attn2` computes gradients.
        ModuleNotFoundError: if triton is not installed.

    Source: the recurrence of Lightning Attention-2, arXiv 2401.04658.
    """
    call = ServeCall(
        q, k, v, s, state, cu_seqlens, state_indices, output_state_indices, has_initial_state, context_lens,
        None if snapshots is None else snapshots.indices, rounding_seeds,
        0 if snapshots is None else snapshots.every, operator_length(max_seqlen), scale,
    )  # fmt: skip
    check_kernel_dtype(q, "lightning_attn2_serve")
    check_serve_call(call, "lightning_attn2_serve")
    check_kernel_pool(q, v, state, "lightning_attn2_serve")
    return _serve(*call)


def _run(*fields: object) -> Tensor:
    from .serve_hopper import hopper_serving
    from .serve_kernel import serve

    call = ServeCall(*fields)  # type: ignore[arg-type]
    check_serve_values(call)
    o = (hopper_serving(call) or serve)(call)
    increment_version(call.state)
    return o


# The low-level API: torch.library.custom_op costs a call several times as much on the host.
_LIBRARY = torch.library.Library(ops.name, "FRAGMENT")
_LIBRARY.define(
    "linear_attention_serve(Tensor q, Tensor k, Tensor v, Tensor? slopes, Tensor(a!) state, "
    "Tensor cu_seqlens, Tensor state_indices, Tensor? output_state_indices, Tensor? has_initial_state, "
    "Tensor? context_lens, "
    "Tensor? snapshot_indices, Tensor? rounding_seeds, int snapshot_every, int max_seqlen, "
    "float scale) -> Tensor"
)
_LIBRARY.impl("linear_attention_serve", _run, "CUDA")
_LIBRARY.impl("linear_attention_serve", _run, "CPU")
torch.library.register_fake(add_op_namespace_prefix("linear_attention_serve"), empty_rows, lib=_LIBRARY)
_serve: "Callable[..., Tensor]" = ops.linear_attention_serve.default
register_step_flops(ops.linear_attention_serve)
