"""Autograd around a `Core` that is called directly; `lightning_attn2` has operators of its own instead."""

from typing import Any

import torch
from torch import Tensor

from lightning_kernels.common.allocate import Core, Gradients, empty_output, empty_state, gradients


class _NoSecondDerivative(torch.autograd.Function):
    """A gradient whose own gradient is refused."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, *inputs: Tensor | None) -> Tensor:
        """Return the gradient, which depends on `inputs`."""
        return grad.view_as(grad)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        """Say what there is instead."""
        raise NotImplementedError(
            "lightning attention has no second derivative: reference_attention has, in fp64"
        )


def refuse_second_derivative(grads: Gradients, *inputs: Tensor | None) -> Gradients:
    """Return gradients computed from `inputs` in a backward pass, such that none can be taken of them.

    It costs nothing unless autograd records the pass, as it does for `create_graph`.
    """
    if not torch.is_grad_enabled():
        return grads
    dq, dk, dv, d_initial = (
        None if grad is None else _NoSecondDerivative.apply(grad, *inputs)  # type: ignore[no-untyped-call]
        for grad in grads
    )
    return dq, dk, dv, d_initial


class DecayAttention(torch.autograd.Function):
    """Linear attention with decay by a core; nothing but its inputs is saved for backward."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        initial_state: Tensor | None,
        slopes: Tensor | None,
        offsets: Tensor | None,
        scale: float,
        return_state: bool,
        core: Core,
    ) -> tuple[Tensor, Tensor | None]:
        """Compute o and, where asked for, the final state."""
        ctx.save_for_backward(q, k, v, initial_state, slopes, offsets)
        ctx.set_materialize_grads(False)
        ctx.scale, ctx.core = scale, core
        out = empty_output(q, v)
        final = empty_state(q, v, offsets) if return_state else None
        core(
            q, k, v, slopes, out, reverse=False, scale=scale, initial=initial_state, final=final,
            offsets=offsets,
        )  # fmt: skip
        return out, final

    @staticmethod
    def backward(
        ctx: Any, grad_o: Tensor | None, grad_state: Tensor | None
    ) -> tuple[*Gradients, None, None, None, None, None]:
        """Compute the gradients that are asked for."""
        q, k, v, initial_state, slopes, offsets = ctx.saved_tensors
        with torch.no_grad():
            got = gradients(
                ctx.core, grad_o, grad_state, q, k, v, slopes, initial_state, offsets, ctx.scale,
                ctx.needs_input_grad[:4],
            )  # fmt: skip
        got = refuse_second_derivative(got, grad_o, grad_state, q, k, v, initial_state)
        return *got, None, None, None, None, None


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    slopes: Tensor | None,
    core: Core,
    *,
    scale: float = 1.0,
    initial_state: Tensor | None = None,
    return_state: bool = False,
    offsets: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Call `DecayAttention` with a typed result: o and the final state, None unless `return_state`."""
    result: tuple[Tensor, Tensor | None] = DecayAttention.apply(  # type: ignore[no-untyped-call]
        q, k, v, initial_state, slopes, offsets, scale, return_state, core
    )
    return result
