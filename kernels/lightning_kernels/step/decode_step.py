"""One-token decoding of linear attention with decay: the state of each sequence is updated in place.

state ← exp(−s) · state + kᵀ v,    o = scale · q · state
"""

from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from .._ops import add_op_namespace_prefix, ops
from ..common.allocate import empty_rows
from ..common.call_kinds import KeptByKind, unobserved
from ..common.flops import register_step_flops
from ..common.switches import invariant
from ..common.validate import autocast_dtype
from .pool import check_kernel_dtype, check_kernel_pool
from .rounding import round_stochastic
from .step_call import StepCall, check_step

if TYPE_CHECKING:
    from .step_kernel import AttentionStep


def lightning_attn2_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    s: Tensor | None = None,
    *,
    state: Tensor,
    state_indices: Tensor | None = None,
    rounding_seeds: Tensor | None = None,
    scale: float = 1.0,
) -> Tensor:
    """Decode one token of each sequence against its state, on a GPU, in one kernel launch.

    The state is read once and written once, in place. Decay and sums are fp32. Nothing waits for the GPU, so
    that the call can be captured in a CUDA graph; it is one operator to torch.compile.

    Args:
        q: queries [b, hq, head_dim] in float32, float16 or bfloat16, head_dim from 1 to 256. Any strides;
            a copy of q, k or v is made only if its last dim is not contiguous.
        k: keys [b, hk, head_dim], hq a multiple of hk: query head i reads kv head i // (hq // hk).
        v: values [b, hk, value_dim], value_dim from 1 to 256.
        s: slopes per token [hq] or [hq, 1, 1], s ≥ 0 (not checked on a GPU); None means no decay.
        state: float32 or bfloat16 [b, hq, head_dim, value_dim] of contiguous last dim, updated in place.
            Zeros before the first token. It must share no memory with q, k or v. With `state_indices` it is
            a pool [slots, hq, head_dim, value_dim].
        state_indices: int32 [b], the slot of each sequence in the pool, none of them twice; below 0 it is
            padding, and its rows of o are zeros. Values are checked on the CPU only.
        rounding_seeds: int64 [b], for states in bfloat16: they are rounded stochastically, by random bits
            that depend on the seed of the sequence and on nothing else of the batch. Take another seed for
            each call. None rounds to nearest.
        scale: what o is multiplied by; the state does not see it.

    Returns:
        o [b, hq, value_dim] in the dtype of q, contiguous.

    Raises:
        ValueError: if shapes, dtypes, dims, strides of the state or devices are not as above, or the
            tensors are not on a GPU.
        NotImplementedError: if a gradient is asked for; `lightning_attn2` computes gradients.
        ModuleNotFoundError: if triton is not installed.

    Source: the recurrence of Lightning Attention-2, arXiv 2401.04658.
    """
    call = StepCall(q, k, v, s, state, state_indices, rounding_seeds)
    step = _known_step(call) if unobserved(q) else None
    if step is None:
        _check_for_kernel(call)
        o: Tensor = _step(q, k, v, s, state, scale, state_indices, rounding_seeds)
        return o
    o = step(call, float(scale))
    increment_version(state)
    return o


_steps: "KeptByKind[AttentionStep]" = KeptByKind()


def _known_step(call: StepCall, *, checked: bool = False) -> "AttentionStep | None":
    """Return what computes steps of this kind, which are checked unless they have been.

    None where only the operator can: where a gradient is asked for, and as `KeptByKind.find`.
    """

    def decide() -> "AttentionStep":
        from .step_kernel import AttentionStep

        if not checked:
            _check_for_kernel(call)
        return AttentionStep(call)

    if torch.is_grad_enabled() and call.any_requires_grad():
        return None
    absent = call.slopes is None, call.state_indices is None, call.rounding_seeds is None
    return _steps.find(call, (*absent, checked, invariant()), decide)


def _check_for_kernel(call: StepCall) -> None:
    """Check all that `lightning_attn2_step` demands.

    Raises:
        ValueError: naming what is wrong and what is allowed.
        NotImplementedError: if a gradient is asked for.
    """
    check_kernel_dtype(call.q, "lightning_attn2_step")
    check_step(call, "lightning_attn2_step")
    check_kernel_pool(call.q, call.v, call.state, "lightning_attn2_step")


def lightning_attn2_step_torch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    s: Tensor | None = None,
    *,
    state: Tensor,
    state_indices: Tensor | None = None,
    rounding_seeds: Tensor | None = None,
    scale: float = 1.0,
) -> Tensor:
    """Decode one token of each sequence against its state in plain PyTorch, for CPUs.

    Arguments and result are those of `lightning_attn2_step`, but for: any floating dtype and device; any
    dims of at least 1; any strides of the state; for fp64 inputs the state is fp64, and that is what it
    computes in.

    Raises:
        ValueError: if shapes, dtypes or devices do not fit together.
        NotImplementedError: if a gradient is asked for; `lightning_attn2_torch` computes gradients.

    Source: the recurrence of Lightning Attention-2, arXiv 2401.04658.
    """
    check_step(StepCall(q, k, v, s, state, state_indices, rounding_seeds), "lightning_attn2_step_torch")
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    if state_indices is None and state.dtype == dtype:
        return _advance(q, k, v, s, state, scale)
    some = torch.ones(q.shape[0], dtype=torch.bool, device=q.device)
    if state_indices is not None:
        some = state_indices >= 0
    slots = some.nonzero()[:, 0] if state_indices is None else state_indices[some].long()
    x = state[slots].to(dtype)
    o = q.new_zeros((*q.shape[:2], v.shape[2]))
    o[some] = _advance(q[some], k[some], v[some], s, x, scale)
    if rounding_seeds is not None:
        x = round_stochastic(x, rounding_seeds[some], torch.ones_like(slots))
    state[slots] = x.to(state.dtype)
    return o


def _advance(q: Tensor, k: Tensor, v: Tensor, s: Tensor | None, state: Tensor, scale: float) -> Tensor:
    """Put a token into states of the dtype that is computed in, and return o."""
    dtype = state.dtype
    group = q.shape[1] // k.shape[1]
    rows_k, rows_v = (x.to(dtype).repeat_interleave(group, 1) for x in (k, v))  # [b, hq, dim]
    update = rows_k[:, :, :, None] * rows_v[:, :, None, :]
    if s is not None:
        # As in `token_decay`: one rounding adds the token and the change that a decay near 1 makes.
        decay = torch.exp(-s.to(torch.float64)).reshape(-1, 1, 1)
        keep = torch.where(decay > 0.5, 1.0, decay.to(dtype).to(torch.float64))
        update.addcmul_(state, (decay - keep).to(dtype))
        state.mul_(keep.to(dtype))
    state.add_(update)
    # Autocast would round the state.
    with nullcontext() if autocast_dtype(q) is None else torch.autocast(q.device.type, enabled=False):
        o = torch.matmul(q.to(dtype)[:, :, None, :], state)[:, :, 0] * scale  # [b, hq, value_dim]
    return o.to(q.dtype)


def _run(
    q: Tensor, k: Tensor, v: Tensor, slopes: Tensor | None, state: Tensor, scale: float,
    state_indices: Tensor | None = None, rounding_seeds: Tensor | None = None,
) -> Tensor:  # fmt: skip
    from .step_kernel import AttentionStep

    call = StepCall(q, k, v, slopes, state, state_indices, rounding_seeds)
    step = _known_step(call, checked=True) or AttentionStep(call)
    o = step(call, scale)
    increment_version(state)
    return o


# The low-level API: torch.library.custom_op costs a call several times as much on the host.
_LIBRARY = torch.library.Library(ops.name, "FRAGMENT")
_LIBRARY.define(
    "linear_attention_step(Tensor q, Tensor k, Tensor v, Tensor? slopes, Tensor(a!) state, float scale, "
    "Tensor? state_indices=None, Tensor? rounding_seeds=None) -> Tensor"
)
_LIBRARY.impl("linear_attention_step", _run, "CUDA")
_LIBRARY.impl("linear_attention_step", _run, "CPU")
torch.library.register_fake(add_op_namespace_prefix("linear_attention_step"), empty_rows, lib=_LIBRARY)
_step = ops.linear_attention_step.default
register_step_flops(ops.linear_attention_step)
