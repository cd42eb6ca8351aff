"""One call of linear attention with decay as a value, and what its backward pass is given and returns."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Call(NamedTuple):
    """What a forward pass is given, in the order of the operator's schema; heads are the second dim.

    With X_t = exp(−s)·X_{t−1} + k_tᵀ v_t and X_{−1} = initial_state, the call is o_t = scale · q_t · X_t.
    """

    q: Tensor
    """[b, heads, n, head_dim]."""
    k: Tensor
    """[b, kv_heads, n, head_dim]; kv_heads divides heads."""
    v: Tensor
    """[b, kv_heads, n, value_dim]."""
    slopes: Tensor | None = None
    """s per token, [heads] or [heads, 1, 1]; None is no decay."""
    initial_state: Tensor | None = None
    """[b or num_seqs, heads, head_dim, value_dim]; None is zeros."""
    cu_seqlens: Tensor | None = None
    """int32 [num_seqs + 1]: bounds of sequences that are packed along n in a batch of 1."""
    scale: float = 1.0
    return_state: bool = False
    """Whether the state after the last token is wanted too."""

    def needs_grad(self) -> bool:
        """Say whether autograd must record the call."""
        state = self.initial_state
        return torch.is_grad_enabled() and (
            self.q.requires_grad
            or self.k.requires_grad
            or self.v.requires_grad
            or (state is not None and state.requires_grad)
        )

    def for_kernels(self) -> "Call":
        """Return the call as kernels read it: contiguous fp32 slopes, contiguous bounds, a float scale."""
        slopes, bounds = self.slopes, self.cu_seqlens
        if (
            type(self.scale) is float
            and (slopes is None or (slopes.dtype == torch.float32 and slopes.is_contiguous()))
            and (bounds is None or bounds.is_contiguous())
        ):
            return self
        return self._replace(
            slopes=None if slopes is None else slopes.to(torch.float32).contiguous(),
            cu_seqlens=None if bounds is None else bounds.contiguous(),
            # A kernel is compiled for the type of the scale that it is given first.
            scale=float(self.scale),
        )


class Upstream(NamedTuple):
    """What a backward pass is given besides its `Call`."""

    grad_o: Tensor | None
    """Gradient of o, None where the loss depends on the state only."""
    grad_state: Tensor | None
    """Gradient of the state after the last token, None where the loss does not depend on it."""
    needs: Sequence[bool]
    """Which gradients are wanted: of q, k, v and the initial state."""


class Gradients(NamedTuple):
    """What a backward pass returns; a gradient that is not wanted is None."""

    dq: Tensor | None = None
    dk: Tensor | None = None
    dv: Tensor | None = None
    d_initial: Tensor | None = None
    """Gradient of the initial state."""


class Implementation(Protocol):
    """What computes calls of one kind, as users gave them; `plans.check` of lightning2 has passed them."""

    def forward(self, call: Call, /) -> tuple[Tensor, Tensor | None]:
        """Compute o and, where `call.return_state`, the final state."""

    def backward(self, upstream: Upstream, call: Call, /) -> Gradients:
        """Compute the gradients in `upstream.needs`."""
