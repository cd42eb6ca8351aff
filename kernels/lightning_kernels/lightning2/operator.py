"""The operators of `lightning_attn2`, forward and backward, as torch.compile, autograd and autocast see them.

They are registered by the low-level API: `torch.library.custom_op` with `register_autograd` does the same
and costs a call several times as much on the host.
"""

import sys
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from .._ops import add_op_namespace_prefix, ops
from ..common.allocate import empty_like, empty_output, empty_state
from ..common.autograd import differentiable
from ..common.call import Call, Gradients, Upstream
from ..common.call_kinds import unobserved
from ..common.flops import register_flops
from ..common.private_torch import (
    below_autocast,
    below_autograd,
    has_forward_mode,
    is_dtensor,
)
from ..common.validate import check_values
from .context import ContextParallel, Passes, attend_across, local_call
from .plans import backward_plan, check, choose, forward_plan, portable

_LIBRARY = torch.library.Library(ops.name, "DEF")
# The fields of a `Call`; backward those of an `Upstream` around those of a `Call` without return_state.
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
Result = TypeVar("Result")

linear_attention: Callable[..., Pair] = ops.linear_attention.default
"""The fields of a `Call` -> (o, state); see `lightning_attn2`.

The state is an empty [0] tensor where it is not asked for. The call has passed `plans.check`.
"""
_linear_attention_backward: Callable[..., Four] = ops.linear_attention_backward.default


def attend(call: Call) -> tuple[Tensor, Tensor | None]:
    """Check the call and compute it by the operator, or directly where nothing watches the operators.

    Returns:
        o, and the state, which counts only where it is asked for.

    Raises:
        ValueError, NotImplementedError: as `plans.check`.
    """
    plan = forward_plan(call) if unobserved(call.q) else None
    if plan is None:
        check(call)
        if not torch.compiler.is_compiling() and is_dtensor(call.q):
            _register_shardings()
        return linear_attention(*call)
    if call.needs_grad():
        return differentiable(call, plan.forward, _run_backward)
    return plan.forward(call)


def attend_on_ranks(call: Call, cp: ContextParallel) -> tuple[Tensor, Tensor | None]:
    """Check the call of this rank's tokens and compute it by the operator.

    Raises:
        ValueError, NotImplementedError: as `plans.check`, or if `cp` does not fit the call.
    """
    call = local_call(call, cp)
    check(call)
    passes = Passes(lambda given: linear_attention(*given), _run_backward, _leaving_state)
    return attend_across(call, cp, passes)


def _leaving_state(call: Call, reverse: bool) -> Tensor:
    """Compute only the state that leaves a call, or a reverse one, by the operator of states."""
    from .state_operator import linear_attention_states

    _, k, v, slopes, initial, bounds, scale, _ = call
    heads = call.q.shape[1]
    scales = (scale, True) if reverse else (1.0, False)
    return linear_attention_states(k, v, slopes, initial, bounds, heads, 0, *scales)


def _register_shardings() -> None:
    from .sharding import register

    register()


def _run_backward(upstream: Upstream, call: Call) -> Gradients:
    """Compute the gradients by the operator, or directly where nothing watches the operators."""
    if torch.compiler.is_compiling():  # by compiled autograd, which cannot trace `below_autograd`
        with torch.no_grad():
            return _call_backward(upstream, call)
    with below_autograd():
        plan = backward_plan(upstream, call) if unobserved(call.q) else None
        return _call_backward(upstream, call) if plan is None else plan.backward(upstream, call)


def _call_backward(upstream: Upstream, call: Call) -> Gradients:
    """Compute the gradients by the operator."""
    grad_o, grad_state, needs = upstream
    grads = _linear_attention_backward(grad_o, grad_state, *call[:-1], needs)
    return Gradients(*(grad if need else None for grad, need in zip(grads, needs, strict=True)))


def _run_operator(call: Call) -> Pair:
    with below_autograd():
        return linear_attention(*call)


def _autograd(call: Call) -> tuple[Tensor, Tensor | None]:
    if has_forward_mode():
        raise NotImplementedError("lightning_attn2 has no forward-mode derivative: reference_attention has")
    if call.needs_grad():
        return differentiable(call, _run_operator, _run_backward)
    return _run_operator(call)


def _autocast(device_type: str) -> Callable[[Call], Pair]:
    def cast(call: Call) -> Pair:
        dtype = torch.get_autocast_dtype(device_type)
        with below_autocast(device_type):
            return linear_attention(call.q.to(dtype), call.k.to(dtype), call.v.to(dtype), *call[3:])

    return cast


def _forward(call: Call) -> Pair:
    plan = forward_plan(call, checked=True) or choose(call.q, call.k, call.v)
    out, state = plan.forward(call)
    return out, call.q.new_empty(0) if state is None else state


def _forward_on_cpu(call: Call) -> Pair:
    """Run in the Triton interpreter, or say that it is off."""
    portable().check_runnable(call.q)
    check_values(call)
    return _forward(call)


def _forward_fake(call: Call) -> Pair:
    return empty_output(call), empty_state(call) if call.return_state else call.q.new_empty(0)


def _backward(upstream: Upstream, call: Call) -> Four:
    upstream = upstream._replace(needs=tuple(upstream.needs))  # as a key
    plan = backward_plan(upstream, call) or choose(call.q, call.k, call.v, upstream.grad_o)
    grads = plan.backward(upstream, call)
    dq, dk, dv, d_initial = (
        x.new_empty(0) if grad is None else grad
        for grad, x in zip(grads, (call.q, call.k, call.v, call.q), strict=True)
    )
    return dq, dk, dv, d_initial


def _backward_fake(upstream: Upstream, call: Call) -> Four:
    state, (*of_inputs, of_state) = call.initial_state, upstream.needs
    dq, dk, dv = (
        empty_like(x) if need else x.new_empty(0) for x, need in zip(call[:3], of_inputs, strict=True)
    )
    if state is None or not of_state:
        return dq, dk, dv, call.q.new_empty(0)
    return dq, dk, dv, torch.empty_like(state, memory_format=torch.contiguous_format)


def _of_call(function: Callable[[Call], Result]) -> Callable[..., Result]:
    """Return what the dispatcher calls, with the operands one by one."""
    return lambda *fields: function(Call(*fields))


def _of_upstream(function: Callable[[Upstream, Call], Four]) -> Callable[..., Four]:
    """Return what the dispatcher calls backward, with the operands one by one."""
    return lambda grad_o, grad_state, *fields: function(
        Upstream(grad_o, grad_state, fields[-1]), Call(*fields[:-1])
    )


for _key, _function in (
    ("CUDA", _forward),
    ("CPU", _forward_on_cpu),
    ("Autograd", _autograd),
    ("AutocastCUDA", _autocast("cuda")),
    ("AutocastCPU", _autocast("cpu")),
):
    _LIBRARY.impl("linear_attention", _of_call(_function), _key)
for _key in ("CUDA", "CPU"):
    _LIBRARY.impl("linear_attention_backward", _of_upstream(_backward), _key)
torch.library.register_fake(
    add_op_namespace_prefix("linear_attention"), _of_call(_forward_fake), lib=_LIBRARY
)
torch.library.register_fake(
    add_op_namespace_prefix("linear_attention_backward"), _of_upstream(_backward_fake), lib=_LIBRARY
)
register_flops(ops.linear_attention, ops.linear_attention_backward)
if "torch.distributed.tensor" in sys.modules:  # a compiler cannot register when a DTensor arrives
    _register_shardings()
