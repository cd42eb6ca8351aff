"""Speculative decoding against a pool of states: public functions and operators."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from .._ops import add_op_namespace_prefix, ops
from ..common.flops import register_draft_flops
from ..step.pool import check_kernel_dtype, check_kernel_pool
from .drafts import Accepted, Draft, check_draft, check_draft_values

if TYPE_CHECKING:
    from collections.abc import Callable


def lightning_attn2_verify(
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
    """Compute the tokens of a draft of each sequence, as decoding steps would, and keep no state of them.

    It is meant for 2 to 8 tokens: the state is read once, and each token takes the arithmetic of a step on
    it, in fp32. Keep k and v until it is known how many tokens are accepted, and pass them as `accepted` of
    the next draft, or to `lightning_attn2_commit`. One launch; nothing waits for the GPU.

    Args:
        q: queries [b, tokens, hq, head_dim] in float32, float16 or bfloat16, head_dim from 1 to 256. Any
            strides; a copy of q, k or v is made only if its last dim is not contiguous.
        k: keys [b, tokens, hk, head_dim], hq a multiple of hk: query head i reads kv head i // (hq // hk).
        v: values [b, tokens, hk, value_dim], value_dim from 1 to 256.
        s: slopes per token [hq] or [hq, 1, 1], s ≥ 0 (not checked on a GPU); None means no decay.
        state: the pool [slots, hq, head_dim, value_dim] in float32 or bfloat16, of contiguous last dim.
        state_indices: int32 [b], the slot of each sequence; below 0 it is padding, and its rows of o are
            zeros.
        accepted: what each sequence keeps of the draft before. It is put into the state first, in place, in
            the same launch; then no slot may be there twice.
        rounding_seeds: int64 [b], for a pool in bfloat16 and `accepted`: see `lightning_attn2_serve`.
        scale: what o is multiplied by; the state does not see it.

    Returns:
        o [b, tokens, hq, value_dim] in the dtype of q, contiguous.

    Raises:
        ValueError: if shapes, dtypes, dims, strides of the pool or devices are not as above, or the tensors
            are not on a GPU. Values are checked on the CPU only.
        NotImplementedError: if a gradient is asked for; `lightning_attn2` computes gradients.
        ModuleNotFoundError: if triton is not installed.

    Source: the recurrence of Lightning Attention-2, arXiv 2401.04658.
    """
    draft = Draft(q, k, v, s, state, state_indices, accepted, rounding_seeds, scale)
    check_kernel_dtype(q, "lightning_attn2_verify")
    check_draft(draft, "lightning_attn2_verify")
    check_kernel_pool(q, v, state, "lightning_attn2_verify")
    kept = (None, None, None) if accepted is None else accepted
    return _verify(q, k, v, s, state, state_indices, *kept, rounding_seeds, scale)


def lightning_attn2_commit(
    k: Tensor,
    v: Tensor,
    s: Tensor | None = None,
    *,
    state: Tensor,
    state_indices: Tensor,
    num_accepted: Tensor,
    rounding_seeds: Tensor | None = None,
) -> None:
    """Put the accepted tokens of a verified draft into the states of a pool, in place, in one launch.

    The state of a sequence becomes what so many calls of `lightning_attn2_step` leave.

    Args:
        k: keys [b, tokens, hk, head_dim], as `lightning_attn2_verify` was given them.
        v: values [b, tokens, hk, value_dim].
        s: slopes per token [hq] or [hq, 1, 1], s ≥ 0 (not checked on a GPU); None means no decay.
        state: the pool [slots, hq, head_dim, value_dim] in float32 or bfloat16, of contiguous last dim; hq is
            a multiple of hk.
        state_indices: int32 [b], the slot of each sequence, none of them twice; below 0 it is padding.
        num_accepted: int32 [b], how many tokens are accepted, from 0, which leaves the state as it is, to
            `tokens`; more are taken for `tokens` on a GPU.
        rounding_seeds: int64 [b], for a pool in bfloat16: see `lightning_attn2_serve`.

    Raises:
        ValueError: if shapes, dtypes, dims, strides of the pool or devices are not as above, or the tensors
            are not on a GPU. Values are checked on the CPU only.
        NotImplementedError: if a gradient is asked for; `lightning_attn2` computes gradients.
        ModuleNotFoundError: if triton is not installed.

    Source: the recurrence of Lightning Attention-2, arXiv 2401.04658.
    """
    accepted = Accepted(k, v, num_accepted)
    check_kernel_dtype(k, "lightning_attn2_commit")
    draft = Draft(None, None, None, s, state, state_indices, accepted, rounding_seeds)
    check_draft(draft, "lightning_attn2_commit")
    check_kernel_pool(k, v, state, "lightning_attn2_commit")
    _commit(k, v, s, state, state_indices, num_accepted, rounding_seeds)


def _run_verify(
    q: Tensor, k: Tensor, v: Tensor, slopes: Tensor | None, state: Tensor, state_indices: Tensor,
    kept_k: Tensor | None, kept_v: Tensor | None, num_accepted: Tensor | None, rounding_seeds: Tensor | None,
    scale: float,
) -> Tensor:  # fmt: skip
    from .verify_kernel import verify

    accepted = None
    if kept_k is not None and kept_v is not None and num_accepted is not None:
        accepted = Accepted(kept_k, kept_v, num_accepted)
    draft = Draft(q, k, v, slopes, state, state_indices, accepted, rounding_seeds, scale)
    check_draft_values(draft)
    o = torch.empty((*q.shape[:3], v.shape[3]), dtype=q.dtype, device=q.device)
    verify(draft, o, "lightning_attn2_verify")
    if accepted is not None:
        increment_version(state)
    return o


def _run_commit(
    k: Tensor, v: Tensor, slopes: Tensor | None, state: Tensor, state_indices: Tensor, num_accepted: Tensor,
    rounding_seeds: Tensor | None,
) -> None:  # fmt: skip
    from .verify_kernel import verify

    accepted = Accepted(k, v, num_accepted)
    draft = Draft(None, None, None, slopes, state, state_indices, accepted, rounding_seeds)
    check_draft_values(draft)
    verify(draft, None, "lightning_attn2_commit")
    increment_version(state)


def _verify_fake(q: Tensor, k: Tensor, v: Tensor, *_: object) -> Tensor:
    return q.new_empty((*q.shape[:3], v.shape[3]))


def _commit_fake(*_: object) -> None:
    return None


# The low-level API: torch.library.custom_op costs a call several times as much on the host.
_LIBRARY = torch.library.Library(ops.name, "FRAGMENT")
_LIBRARY.define(
    "linear_attention_verify(Tensor q, Tensor k, Tensor v, Tensor? slopes, Tensor(a!) state, "
    "Tensor state_indices, Tensor? kept_k, Tensor? kept_v, Tensor? num_accepted, Tensor? rounding_seeds, "
    "float scale) -> Tensor"
)
_LIBRARY.define(
    "linear_attention_commit(Tensor k, Tensor v, Tensor? slopes, Tensor(a!) state, Tensor state_indices, "
    "Tensor num_accepted, Tensor? rounding_seeds) -> ()"
)
for _key in ("CUDA", "CPU"):
    _LIBRARY.impl("linear_attention_verify", _run_verify, _key)
    _LIBRARY.impl("linear_attention_commit", _run_commit, _key)
torch.library.register_fake(add_op_namespace_prefix("linear_attention_verify"), _verify_fake, lib=_LIBRARY)
torch.library.register_fake(add_op_namespace_prefix("linear_attention_commit"), _commit_fake, lib=_LIBRARY)
_verify: "Callable[..., Tensor]" = ops.linear_attention_verify.default
_commit: "Callable[..., None]" = ops.linear_attention_commit.default
register_draft_flops(ops.linear_attention_verify, ops.linear_attention_commit)
