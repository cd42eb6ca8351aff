"""One-token decoding of linear attention with decay: the state of each sequence is updated in place.

state ← exp(−s) · state + kᵀ v,    o = scale · q · state
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from .._ops import add_op_namespace_prefix, ops
from ..common.call_kinds import KeptByKind, unobserved
from ..common.flops import register_step_flops
from ..common.switches import invariant
from ..common.validate import (
    KERNEL_DTYPES,
    check_dims,
    check_nvidia,
    check_slope_values,
    check_slopes,
)

if TYPE_CHECKING:
    from .step_kernel import AttentionStep


def lightning_attn2_step(
    q: Tensor, k: Tensor, v: Tensor, s: Tensor | None = None, *, state: Tensor, scale: float = 1.0
) -> Tensor:
    """Decode one token of each sequence against its state, on a GPU, in one kernel launch.

    The state is read once and written once, in place. Decay, sums and state are fp32. Nothing waits for
    the GPU, so that the call can be captured in a CUDA graph; it is one operator to torch.compile.

    Args:
        q: queries [b, hq, head_dim] in float32, float16 or bfloat16, head_dim from 1 to 256. Any strides;
            a copy of q, k or v is made only if its last dim is not contiguous.
        k: keys [b, hk, head_dim], hq a multiple of hk: query head i reads kv head i // (hq // hk).
        v: values [b, hk, value_dim], value_dim from 1 to 256.
        s: slopes per token [hq] or [hq, 1, 1], s ≥ 0 (not checked on a GPU); None means no decay.
        state: fp32 [b, hq, head_dim, value_dim] of contiguous last dim, updated in place. Zeros before the
            first token. It must share no memory with q, k or v.
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
    step = _known_step(q, k, v, s, state) if unobserved(q) else None
    if step is None:
        _check_for_kernel(q, k, v, s, state)
        o: Tensor = _step(q, k, v, s, state, scale)
        return o
    o = step(q, k, v, s, state, float(scale))
    increment_version(state)
    return o


_steps: "KeptByKind[AttentionStep]" = KeptByKind()


def _known_step(q: Tensor, k: Tensor, v: Tensor, s: Tensor | None, state: Tensor) -> "AttentionStep | None":
    """Return what computes steps of this kind, checked; None where only the operator can (`kind_of`)."""

    def decide() -> "AttentionStep":
        from .step_kernel import AttentionStep

        _check_for_kernel(q, k, v, s, state)
        return AttentionStep(q, k, v, s, state)

    learned = torch.is_grad_enabled() and (
        q.requires_grad
        or k.requires_grad
        or v.requires_grad
        or state.requires_grad
        or (s is not None and s.requires_grad)
    )
    return None if learned else _steps.find((q, k, v, s, state), (s is None, invariant()), decide)


def _check_for_kernel(q: Tensor, k: Tensor, v: Tensor, s: Tensor | None, state: Tensor) -> None:
    """Check all that `lightning_attn2_step` demands.

    Raises:
        ValueError: naming what is wrong and what is allowed.
        NotImplementedError: if a gradient is asked for.
    """
    _check(q, k, v, s, state, "lightning_attn2_step")
    if q.dtype not in KERNEL_DTYPES:
        raise ValueError(f"lightning_attn2_step takes float32, float16 or bfloat16, got {q.dtype}")
    check_dims(q.shape[2], v.shape[2], "lightning_attn2_step")
    check_nvidia(q.device, "lightning_attn2_step", "lightning_attn2_step_torch")
    if state.dtype != torch.float32:
        raise ValueError(f"state must be float32, got {state.dtype}")
    strides = state.stride()
    if strides[3] != 1 and state.shape[3] != 1:
        raise ValueError(f"the last dim of state must be contiguous, got strides {strides}")


def lightning_attn2_step_torch(
    q: Tensor, k: Tensor, v: Tensor, s: Tensor | None = None, *, state: Tensor, scale: float = 1.0
) -> Tensor:
    """Decode one token of each sequence against its state in plain PyTorch, for CPUs.

    Arguments and result are those of `lightning_attn2_step`, but for: any floating dtype and device; any
    dims of at least 1; any strides of the state; the state is fp64 for fp64 inputs and fp32 for all others,
    and that is what it computes in.

    Raises:
        ValueError: if shapes, dtypes or devices do not fit together.
        NotImplementedError: if a gradient is asked for; `lightning_attn2_torch` computes gradients.

    Source: the recurrence of Lightning Attention-2, arXiv 2401.04658.
    """
    _check(q, k, v, s, state, "lightning_attn2_step_torch")
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    if state.dtype != dtype:
        raise ValueError(f"state must be {dtype} for {q.dtype} inputs, got {state.dtype}")
    group = q.shape[1] // k.shape[1]
    rows_k, rows_v = (x.to(dtype).repeat_interleave(group, 1) for x in (k, v))  # [b, hq, dim]
    if s is not None:
        # In fp64, since the error of a rounded decay grows with the number of tokens.
        state.mul_(torch.exp(-s.to(torch.float64)).reshape(-1, 1, 1))
    state.addcmul_(rows_k[:, :, :, None], rows_v[:, :, None, :])
    o = torch.matmul(q.to(dtype)[:, :, None, :], state)[:, :, 0] * scale  # [b, hq, value_dim]
    return o.to(q.dtype)


def _check(q: Tensor, k: Tensor, v: Tensor, s: Tensor | None, state: Tensor, name: str) -> None:
    """Check that shapes, dtypes and devices fit together.

    Raises:
        ValueError: naming what is wrong and what is allowed.
        NotImplementedError: if a gradient is asked for.
    """
    if q.dim() != 3 or k.dim() != 3 or v.dim() != 3:
        raise ValueError(
            "q, k and v must be [batch, heads, dim], one token of each sequence, got shapes "
            f"{tuple(q.shape)}, {tuple(k.shape)} and {tuple(v.shape)}"
        )
    batch, heads, head_dim = q.shape
    if k.shape[0] != batch or k.shape[2] != head_dim:
        raise ValueError(f"k must share batch and head_dim with q, got {tuple(k.shape)} and {tuple(q.shape)}")
    if v.shape[:2] != k.shape[:2]:
        raise ValueError(f"v must share batch and heads with k, got {tuple(v.shape)} and {tuple(k.shape)}")
    if k.shape[1] < 1 or heads < 1 or heads % k.shape[1]:
        raise ValueError(f"the heads of q must be a multiple of those of k, got {heads} and {k.shape[1]}")
    if head_dim < 1 or v.shape[2] < 1:
        raise ValueError(f"head_dim and value_dim must be at least 1, got {head_dim} and {v.shape[2]}")
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(f"q, k and v must have one dtype, got {q.dtype}, {k.dtype} and {v.dtype}")
    if not q.dtype.is_floating_point:
        raise ValueError(f"q, k and v must have a floating dtype, got {q.dtype}")
    if not q.device == k.device == v.device == state.device:
        raise ValueError(
            "q, k, v and state must be on one device, got "
            f"{q.device}, {k.device}, {v.device} and {state.device}"
        )
    _check_state(state, (batch, heads, head_dim, v.shape[2]))
    if torch.is_grad_enabled() and (
        q.requires_grad or k.requires_grad or v.requires_grad or state.requires_grad
    ):
        trains = "lightning_attn2_torch" if name.endswith("_torch") else "lightning_attn2"
        raise NotImplementedError(
            f"{name} computes no gradient: use {trains} for training, or call it under torch.no_grad()"
        )
    if s is not None:
        check_slopes(s, heads, q.device)
        if not torch.compiler.is_compiling():  # traced tensors have no values
            check_slope_values(s)


def _check_state(state: Tensor, shape: tuple[int, int, int, int]) -> None:
    if state.shape != shape:
        raise ValueError(
            f"state must be [batch, heads of q, head_dim, value_dim] = {list(shape)}, got {list(state.shape)}"
        )
    if 0 in state.stride() and any(
        stride == 0 and size > 1 for stride, size in zip(state.stride(), shape, strict=True)
    ):
        raise ValueError(
            "state is updated in place and must not be expanded: pass state.contiguous() and keep it, "
            f"got strides {state.stride()}"
        )


def _run(q: Tensor, k: Tensor, v: Tensor, slopes: Tensor | None, state: Tensor, scale: float) -> Tensor:
    from .step_kernel import attention_step

    o = attention_step(q, k, v, slopes, state, scale)
    increment_version(state)
    return o


def _fake(q: Tensor, k: Tensor, v: Tensor, slopes: Tensor | None, state: Tensor, scale: float) -> Tensor:
    return q.new_empty((q.shape[0], q.shape[1], v.shape[2]))


# The low-level API: torch.library.custom_op costs a call several times as much on the host.
_LIBRARY = torch.library.Library(ops.name, "FRAGMENT")
_LIBRARY.define(
    "linear_attention_step(Tensor q, Tensor k, Tensor v, Tensor? slopes, Tensor(a!) state, float scale)"
    " -> Tensor"
)
_LIBRARY.impl("linear_attention_step", _run, "CUDA")
_LIBRARY.impl("linear_attention_step", _run, "CPU")
torch.library.register_fake(add_op_namespace_prefix("linear_attention_step"), _fake, lib=_LIBRARY)
_step = ops.linear_attention_step.default
register_step_flops(ops.linear_attention_step)
