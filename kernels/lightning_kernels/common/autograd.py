"""The one autograd function of linear attention with decay, around any implementation of its two passes."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .call import Call, Gradients, Upstream
from .core import Core, core_backward, core_forward

Forward = Callable[[Call], tuple[Tensor, Tensor | None]]
"""Computes o and the final state, which counts only where `Call.return_state`."""
Backward = Callable[[Upstream, Call], Gradients]


def differentiable(call: Call, forward: Forward, backward: Backward) -> tuple[Tensor, Tensor | None]:
    """Return forward(call), whose gradients backward(upstream, call) computes.

    Nothing is saved for the backward pass but the tensors of the call. The gradients have no gradients:
    taking them raises NotImplementedError.
    """
    result: tuple[Tensor, Tensor | None] = _DecayAttention.apply(  # type: ignore[no-untyped-call]
        call.q, call.k, call.v, call.initial_state, call, forward, backward
    )
    return result


def attend_by_core(core: Core, call: Call) -> tuple[Tensor, Tensor | None]:
    """Compute o and, where `call.return_state`, the final state by `core`, and their gradients too."""
    return differentiable(call, partial(core_forward, core), partial(unrecorded_backward, core))


def unrecorded_backward(core: Core, upstream: Upstream, call: Call) -> Gradients:
    """Compute gradients by `core`, without gradients of their own."""
    with torch.no_grad():
        return core_backward(core, upstream, call)


class _DecayAttention(torch.autograd.Function):
    """The tensors that get gradients, which autograd must see one by one, their `Call` and both passes."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, initial_state: Tensor | None, call: Call,
        forward: Forward, backward: Backward,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """Save the tensors of the call and run its forward pass."""
        ctx.save_for_backward(q, k, v, call.slopes, initial_state, call.cu_seqlens)
        ctx.set_materialize_grads(False)
        ctx.scale, ctx.return_state, ctx.run_backward = call.scale, call.return_state, backward
        return forward(call)

    @staticmethod
    def backward(ctx: Any, grad_o: Tensor | None, grad_state: Tensor | None) -> tuple[Tensor | None, ...]:
        """Compute the gradients that are asked for."""
        q, k, v, slopes, initial_state, bounds = ctx.saved_tensors
        call = Call(q, k, v, slopes, initial_state, bounds, ctx.scale)
        if not ctx.return_state:  # what an operator returns in its place
            grad_state = None
        upstream = Upstream(grad_o, grad_state, ctx.needs_input_grad[:4])
        grads = ctx.run_backward(upstream, call)
        if torch.is_grad_enabled():  # as for `create_graph`
            inputs = grad_o, grad_state, q, k, v, initial_state
            grads = Gradients(*(refuse_second_derivative(x, inputs) for x in grads))
        return *grads, None, None, None


class _NoSecondDerivative(torch.autograd.Function):
    """A gradient whose own gradient is refused."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, *inputs: Tensor | None) -> Tensor:
        """Return the gradient, which depends on `inputs`."""
        return grad.view_as(grad)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        """Raise the error that names the alternative."""
        raise NotImplementedError(
            "lightning attention has no second derivative: reference_attention has, in fp64"
        )


def refuse_second_derivative(grad: Tensor | None, inputs: Sequence[Tensor | None]) -> Tensor | None:
    """Return a gradient that depends on `inputs`, of which it was computed, and raises where that is used."""
    if grad is None:
        return None
    refusing: Tensor = _NoSecondDerivative.apply(grad, *inputs)  # type: ignore[no-untyped-call]
    return refusing
