"""The operators of `lightning_attn2`, forward and backward, as torch.compile, autograd and autocast see them.

They are registered by the low-level API: `torch.library.custom_op` with `register_autograd` does the same
and costs a call several times as much on the host.
"""

from collections.abc import Callable, Hashable, Sequence
from functools import cache
from types import ModuleType
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd import forward_ad

from lightning_kernels.common.allocate import Gradients, empty_like, empty_output, empty_state
from lightning_kernels.common.validate import check_inputs, check_kernel_inputs, check_values
from lightning_kernels.lightning2.autograd import refuse_second_derivative
from lightning_kernels.lightning2.tiles import hopper_takes

_LIBRARY = torch.library.Library("lightning_kernels", "DEF")
_LIBRARY.define(
    "linear_attention(Tensor q, Tensor k, Tensor v, Tensor? slopes, Tensor? initial_state, "
    "Tensor? cu_seqlens, float scale, bool return_state) -> (Tensor, Tensor)"
)
_LIBRARY.define(
    "linear_attention_backward(Tensor? grad_o, Tensor? grad_state, Tensor q, Tensor k, Tensor v, "
    "Tensor? slopes, Tensor? initial_state, Tensor? cu_seqlens, float scale, bool[4] needs) "
    "-> (Tensor, Tensor, Tensor, Tensor)"
)
Pair = tuple[Tensor, Tensor]
Four = tuple[Tensor, Tensor, Tensor, Tensor]

linear_attention: Callable[..., Pair] = torch.ops.lightning_kernels.linear_attention.default
"""(q, k, v, slopes, initial_state, cu_seqlens, scale, return_state) -> (o, state); see `lightning_attn2`.

Heads are the second dim of q, k and v. The state is an empty [0] tensor where it is not asked for. What
`check_inputs` and `check_kernel_inputs` check is taken for granted.
"""
_backward_op: Callable[..., Four] = torch.ops.lightning_kernels.linear_attention_backward.default


@cache
def _portable() -> ModuleType:
    from lightning_kernels.lightning2 import portable as lightning2

    return lightning2


@cache
def hopper(device: int) -> ModuleType | None:
    """Return the implementation for compute capability 9.0 if this device has it, else None."""
    if device < 0 or torch.cuda.get_device_capability(device) != (9, 0) or not hopper_takes(torch.float16):
        return None
    from lightning_kernels.lightning2.hopper import host as lightning2

    return lightning2


class Implementation(Protocol):
    """What computes forward and backward; slopes are fp32 and contiguous, offsets contiguous."""

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, slopes: Tensor | None, initial_state: Tensor | None,
        offsets: Tensor | None, scale: float, return_state: bool, /,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """Compute o and, where asked for, the final state."""

    def backward(
        self, grad_o: Tensor | None, grad_state: Tensor | None, q: Tensor, k: Tensor, v: Tensor,
        slopes: Tensor | None, initial_state: Tensor | None, offsets: Tensor | None, scale: float,
        needs: Sequence[bool], /,
    ) -> Gradients:  # fmt: skip
        """Compute those gradients of (q, k, v, initial_state) that `needs` names."""


def _implementation(q: Tensor, k: Tensor, v: Tensor, grad_o: Tensor | None = None) -> Implementation:
    """Choose the Hopper kernel where there is one and it takes the tensors as they are."""
    special = hopper(q.get_device())
    if special is not None and special.takes(q, k, v, grad_o):
        attention: Implementation = special.HopperAttention()
        return attention
    return _portable()


_plans: dict[Hashable, Implementation] = {}
"""What computes a call, by all that this depends on: calls alike are checked and decided upon once."""
_MOST_PLANS = 4096
_PLAIN = (Tensor, torch.nn.Parameter)


def _alike(*tensors: Tensor | None) -> Hashable:
    """Return all of the tensors that a plan depends on: everything but values and addresses.

    None if one of them is no values in memory: a subclass, a view that is negated when it is read, or what
    stands for zeros or, under autograd's own vmap, for several tensors. The operator makes values of these.
    """
    key: list[Hashable] = []
    for x in tensors:
        if x is None:
            key.append(None)
            continue
        if type(x) not in _PLAIN or x.is_neg() or not torch._C._has_storage(x):
            return None
        address = x.data_ptr()
        if address == 0 and x.numel():
            return None
        key.append((x.shape, x.stride(), x.dtype, x.get_device(), address & 15))
    return tuple(key)


def _keep(key: Hashable, plan: Implementation) -> Implementation:
    if len(_plans) >= _MOST_PLANS:  # a sequence length of its own for each of thousands of calls
        _plans.clear()
    _plans[key] = plan
    return plan


def _fp32(slopes: Tensor | None) -> Tensor | None:
    if slopes is None or (slopes.dtype == torch.float32 and slopes.is_contiguous()):
        return slopes
    return slopes.to(torch.float32).contiguous()


def _offsets(cu_seqlens: Tensor | None) -> Tensor | None:
    return None if cu_seqlens is None else cu_seqlens.contiguous()


def _forward(
    q: Tensor, k: Tensor, v: Tensor, slopes: Tensor | None, initial_state: Tensor | None,
    cu_seqlens: Tensor | None, scale: float, return_state: bool,
) -> Pair:  # fmt: skip
    out, state = _implementation(q, k, v).forward(
        q, k, v, _fp32(slopes), initial_state, _offsets(cu_seqlens), scale, return_state
    )
    return out, q.new_empty(0) if state is None else state


def _forward_on_cpu(
    q: Tensor, k: Tensor, v: Tensor, slopes: Tensor | None, initial_state: Tensor | None,
    cu_seqlens: Tensor | None, scale: float, return_state: bool,
) -> Pair:  # fmt: skip
    """Run in the Triton interpreter, or say that it is off."""
    _portable().check_runnable(q)
    check_values(slopes, cu_seqlens, q.shape[2])
    return _forward(q, k, v, slopes, initial_state, cu_seqlens, scale, return_state)


def _forward_fake(
    q: Tensor, k: Tensor, v: Tensor, slopes: Tensor | None, initial_state: Tensor | None,
    cu_seqlens: Tensor | None, scale: float, return_state: bool,
) -> Pair:  # fmt: skip
    return empty_output(q, v), empty_state(q, v, cu_seqlens) if return_state else q.new_empty(0)


def _backward(
    grad_o: Tensor | None, grad_state: Tensor | None, q: Tensor, k: Tensor, v: Tensor, slopes: Tensor | None,
    initial_state: Tensor | None, cu_seqlens: Tensor | None, scale: float, needs: Sequence[bool],
) -> Four:  # fmt: skip
    dq, dk, dv, d_initial = _implementation(q, k, v, grad_o).backward(
        grad_o, grad_state, q, k, v, _fp32(slopes), initial_state, _offsets(cu_seqlens), scale, needs
    )
    return (
        q.new_empty(0) if dq is None else dq,
        k.new_empty(0) if dk is None else dk,
        v.new_empty(0) if dv is None else dv,
        q.new_empty(0) if d_initial is None else d_initial,
    )


def _backward_fake(
    grad_o: Tensor | None, grad_state: Tensor | None, q: Tensor, k: Tensor, v: Tensor, slopes: Tensor | None,
    initial_state: Tensor | None, cu_seqlens: Tensor | None, scale: float, needs: Sequence[bool],
) -> Four:  # fmt: skip
    dq, dk, dv = (
        empty_like(x) if need else x.new_empty(0) for x, need in zip((q, k, v), needs, strict=False)
    )
    if initial_state is None or not needs[3]:
        return dq, dk, dv, q.new_empty(0)
    return dq, dk, dv, torch.empty_like(initial_state, memory_format=torch.contiguous_format)


class _LinearAttention(torch.autograd.Function):
    """The forward operator, whose backward is the backward operator, or what they stand for."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, initial_state: Tensor | None, slopes: Tensor | None,
        cu_seqlens: Tensor | None, scale: float, return_state: bool, plan: Implementation | None,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """Save nothing but the inputs; without a plan it is the operator that is called."""
        ctx.save_for_backward(q, k, v, initial_state, slopes, cu_seqlens)
        ctx.set_materialize_grads(False)
        ctx.scale, ctx.return_state = scale, return_state
        if plan is not None:
            return plan.forward(
                q, k, v, _fp32(slopes), initial_state, _offsets(cu_seqlens), scale, return_state
            )
        with torch._C._AutoDispatchBelowAutograd():
            return linear_attention(q, k, v, slopes, initial_state, cu_seqlens, scale, return_state)

    @staticmethod
    def backward(
        ctx: Any, grad_o: Tensor | None, grad_state: Tensor | None
    ) -> tuple[*Gradients, None, None, None, None, None]:
        """Compute the gradients that are asked for."""
        q, k, v, initial_state, slopes, cu_seqlens = ctx.saved_tensors
        needs = ctx.needs_input_grad[:4]
        if not ctx.return_state:
            grad_state = None
        with torch._C._AutoDispatchBelowAutograd():
            tensors = grad_o, grad_state, q, k, v, slopes, initial_state, cu_seqlens
            alike = _alike(*tensors) if _unobserved(q) else None
            if alike is not None:
                key = needs, alike
                plan = _plans.get(key) or _keep(key, _implementation(q, k, v, grad_o))
                grads = plan.backward(
                    grad_o, grad_state, q, k, v, _fp32(slopes), initial_state, _offsets(cu_seqlens),
                    ctx.scale, needs,
                )  # fmt: skip
            else:
                got = _backward_op(*tensors, ctx.scale, needs)
                dq, dk, dv, d_initial = (
                    grad if need else None for grad, need in zip(got, needs, strict=True)
                )
                grads = dq, dk, dv, d_initial
        wanted = refuse_second_derivative(grads, grad_o, grad_state, q, k, v, initial_state)
        return *wanted, None, None, None, None, None


def _needs_grad(q: Tensor, k: Tensor, v: Tensor, initial_state: Tensor | None) -> bool:
    return torch.is_grad_enabled() and (
        q.requires_grad
        or k.requires_grad
        or v.requires_grad
        or (initial_state is not None and initial_state.requires_grad)
    )


def _autograd(
    q: Tensor, k: Tensor, v: Tensor, slopes: Tensor | None, initial_state: Tensor | None,
    cu_seqlens: Tensor | None, scale: float, return_state: bool,
) -> Pair:  # fmt: skip
    if forward_ad._current_level >= 0:
        raise NotImplementedError("lightning_attn2 has no forward-mode derivative: reference_attention has")
    if _needs_grad(q, k, v, initial_state):
        pair: Pair = _LinearAttention.apply(  # type: ignore[no-untyped-call]
            q, k, v, initial_state, slopes, cu_seqlens, scale, return_state, None
        )
        return pair
    with torch._C._AutoDispatchBelowAutograd():
        return linear_attention(q, k, v, slopes, initial_state, cu_seqlens, scale, return_state)


def _unobserved(q: Tensor) -> bool:
    """Say whether calling the operator's implementation itself makes no difference but to the time.

    The dispatcher's way through Python takes as long as the rest of a call. A compiler, a tracer, a mode, a
    transform or autocast must see the operator.
    """
    return (
        not torch.compiler.is_compiling()  # first, since a compiler cannot ask the others
        and q.is_cuda
        and torch._C._len_torch_dispatch_stack() == 0
        and not torch._C._are_functorch_transforms_active()
        and not torch.is_autocast_enabled("cuda")
        and torch._C._get_tracing_state() is None
        and forward_ad._current_level < 0
    )


def attend(
    q: Tensor, k: Tensor, v: Tensor, slopes: Tensor | None, initial_state: Tensor | None,
    cu_seqlens: Tensor | None, scale: float, return_state: bool,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Check the inputs and call the operator, or what it stands for where nobody looks.

    Returns o, and the state where it is asked for.
    """
    tensors = q, k, v, slopes, initial_state, cu_seqlens
    alike = _alike(*tensors) if _unobserved(q) else None
    if alike is None:
        _check(*tensors)
        return linear_attention(*tensors, scale, return_state)
    scale = float(scale)  # a kernel is compiled for the type of what it is given first
    learned = slopes is not None and slopes.requires_grad and torch.is_grad_enabled()  # is refused
    key = return_state, learned, alike
    plan = _plans.get(key)
    if plan is None:
        _check(*tensors)
        plan = _keep(key, _implementation(q, k, v))
    if _needs_grad(q, k, v, initial_state):
        pair: tuple[Tensor, Tensor | None] = _LinearAttention.apply(  # type: ignore[no-untyped-call]
            q, k, v, initial_state, slopes, cu_seqlens, scale, return_state, plan
        )
        return pair
    return plan.forward(q, k, v, _fp32(slopes), initial_state, _offsets(cu_seqlens), scale, return_state)


def _check(
    q: Tensor, k: Tensor, v: Tensor, slopes: Tensor | None, initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> None:  # fmt: skip
    check_inputs(q, k, v, slopes, initial_state, cu_seqlens)
    check_kernel_inputs(q, k, v, "lightning_attn2")


def _autocast(device_type: str, key: torch._C.DispatchKey) -> Callable[..., Pair]:
    keys = torch._C.DispatchKeySet(key)

    def cast(
        q: Tensor, k: Tensor, v: Tensor, slopes: Tensor | None, initial_state: Tensor | None,
        cu_seqlens: Tensor | None, scale: float, return_state: bool,
    ) -> Pair:  # fmt: skip
        dtype = torch.get_autocast_dtype(device_type)
        with torch._C._ExcludeDispatchKeyGuard(keys):
            return linear_attention(
                q.to(dtype), k.to(dtype), v.to(dtype), slopes, initial_state, cu_seqlens, scale, return_state
            )

    return cast


for _name, _on_gpu, _on_cpu, _fake in (
    ("linear_attention", _forward, _forward_on_cpu, _forward_fake),
    ("linear_attention_backward", _backward, _backward, _backward_fake),
):
    _LIBRARY.impl(_name, _on_gpu, "CUDA")
    _LIBRARY.impl(_name, _on_cpu, "CPU")
    torch.library.register_fake(f"lightning_kernels::{_name}", _fake, lib=_LIBRARY)
_LIBRARY.impl("linear_attention", _autograd, "Autograd")
_LIBRARY.impl("linear_attention", _autocast("cuda", torch._C.DispatchKey.AutocastCUDA), "AutocastCUDA")
_LIBRARY.impl("linear_attention", _autocast("cpu", torch._C.DispatchKey.AutocastCPU), "AutocastCPU")
