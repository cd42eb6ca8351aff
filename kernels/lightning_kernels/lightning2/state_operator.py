"""The operators of `lightning_attn2_state` and of states after chunks, for torch.compile and autograd."""

from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from .._ops import add_op_namespace_prefix, ops
from ..common.allocate import empty_like
from ..common.autograd import refuse_second_derivative
from ..common.call import Call
from ..common.flops import register_state_flops
from ..common.private_torch import below_autocast, below_autograd, has_forward_mode
from ..common.validate import check_values
from .state_call import StateCall, StateGradients

_LIBRARY = torch.library.Library(ops.name, "FRAGMENT")
# The fields of a `StateCall`; backward those after the gradient of the result.
_LIBRARY.define(
    "linear_attention_states(Tensor k, Tensor v, Tensor? slopes, Tensor? initial_state, Tensor? cu_seqlens, "
    "SymInt heads, SymInt every, float scale=1.0, bool reverse=False) -> Tensor"
)
# In reverse it has no gradient.
_LIBRARY.define(
    "linear_attention_states_backward(Tensor grad, Tensor k, Tensor v, Tensor? slopes, "
    "Tensor? initial_state, Tensor? cu_seqlens, SymInt heads, SymInt every, bool[3] needs) "
    "-> (Tensor, Tensor, Tensor)"
)
Three = tuple[Tensor, Tensor, Tensor]

linear_attention_states: Callable[..., Tensor] = ops.linear_attention_states.default
"""The fields of a `StateCall`, checked -> states in fp32, of its shape."""
_states_backward: Callable[..., Three] = ops.linear_attention_states_backward.default


@cache
def _kernels() -> ModuleType:
    from . import chunk_states

    return chunk_states


def _forward(*fields: Any) -> Tensor:
    states: Tensor = _kernels().forward(StateCall(*fields))
    return states


def _forward_on_cpu(*fields: Any) -> Tensor:
    """Run in the Triton interpreter, or say that it is off."""
    call = StateCall(*fields)
    _kernels().check_runnable(call.k)
    check_values(Call(call.k, call.k, call.v, call.slopes, None, call.cu_seqlens))
    return _forward(*fields)


def _forward_fake(*fields: Any) -> Tensor:
    call = StateCall(*fields)
    return call.k.new_empty(call.shape(), dtype=torch.float32)


def _backward(grad: Tensor, *fields: Any) -> Three:
    *of_call, needs = fields
    call = StateCall(*of_call)
    grads: StateGradients = _kernels().backward(grad, call, tuple(needs))
    dk, dv, d_initial = (call.k.new_empty(0) if x is None else x for x in grads)
    return dk, dv, d_initial


def _backward_fake(grad: Tensor, *fields: Any) -> Three:
    *of_call, needs = fields
    call = StateCall(*of_call)
    dk, dv = (
        empty_like(x) if need else x.new_empty(0) for x, need in zip((call.k, call.v), needs, strict=False)
    )
    state = call.initial_state
    if state is None or not needs[2]:
        return dk, dv, call.k.new_empty(0)
    return dk, dv, torch.empty_like(state, memory_format=torch.contiguous_format)


class _States(torch.autograd.Function):
    """The forward operator, whose backward is the backward operator."""

    @staticmethod
    def forward(
        ctx: Any, k: Tensor, v: Tensor, initial_state: Tensor | None, slopes: Tensor | None,
        cu_seqlens: Tensor | None, heads: int, every: int,
    ) -> Tensor:  # fmt: skip
        """Save the tensors of the call and compute the states."""
        ctx.save_for_backward(k, v, slopes, initial_state, cu_seqlens)
        ctx.heads, ctx.every = heads, every
        with below_autograd():
            return linear_attention_states(k, v, slopes, initial_state, cu_seqlens, heads, every)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Compute the gradients that are asked for."""
        k, v, _, initial_state, _ = ctx.saved_tensors
        needs = ctx.needs_input_grad[:3]
        with torch.no_grad():
            grads = _states_backward(grad, *ctx.saved_tensors, ctx.heads, ctx.every, needs)
        wanted: list[Tensor | None] = [x if need else None for x, need in zip(grads, needs, strict=True)]
        if torch.is_grad_enabled():  # as for `create_graph`
            wanted = [refuse_second_derivative(x, (grad, k, v, initial_state)) for x in wanted]
        return *wanted, None, None, None, None


def _autograd(*fields: Any) -> Tensor:
    call = StateCall(*fields)
    if has_forward_mode():
        raise NotImplementedError(
            "lightning_attn2_state has no forward-mode derivative: lightning_attn2_state_torch has"
        )
    if call.needs_grad():
        if call.reverse:
            raise NotImplementedError("the state of a reverse walk has no gradient")
        k, v, slopes, initial_state, cu_seqlens, heads, every = call[:7]
        states: Tensor = _States.apply(  # type: ignore[no-untyped-call]
            k, v, initial_state, slopes, cu_seqlens, heads, every
        )
        return states
    with below_autograd():
        return linear_attention_states(*call)


def _autocast(device_type: str) -> Callable[..., Tensor]:
    def cast(k: Tensor, v: Tensor, *rest: Any) -> Tensor:
        dtype = torch.get_autocast_dtype(device_type)
        with below_autocast(device_type):
            return linear_attention_states(k.to(dtype), v.to(dtype), *rest)

    return cast


for _key, _function in (
    ("CUDA", _forward),
    ("CPU", _forward_on_cpu),
    ("Autograd", _autograd),
    ("AutocastCUDA", _autocast("cuda")),
    ("AutocastCPU", _autocast("cpu")),
):
    _LIBRARY.impl("linear_attention_states", _function, _key)
for _key in ("CUDA", "CPU"):
    _LIBRARY.impl("linear_attention_states_backward", _backward, _key)
torch.library.register_fake(add_op_namespace_prefix("linear_attention_states"), _forward_fake, lib=_LIBRARY)
torch.library.register_fake(
    add_op_namespace_prefix("linear_attention_states_backward"), _backward_fake, lib=_LIBRARY
)
register_state_flops(ops.linear_attention_states, ops.linear_attention_states_backward)
