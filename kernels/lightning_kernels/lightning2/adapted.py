"""Calls that the kernels cannot compute as they are, brought into a form in which they can.

An `Implementation` around another: `Copying` copies tensors that the Hopper kernel cannot read, `Rescaling`
keeps small scales away from float16.
"""

import math
from collections.abc import Callable, Sequence

from torch import Tensor

from ..common.allocate import empty_like
from ..common.call import Call, Gradients, Implementation, Upstream

LEAST_SCALE = 2.0**-9
"""Values are scaled by at least this much in float16, whose normal numbers end at 2⁻¹⁴: so there is room for
weights of decay below it. Below, powers of two are taken out of the scale and put into results at the end."""


class Copying:
    """Calls in which some of q, k, v and the gradient of o are read from copies.

    A copy has the order of its tensor's strides, so that results are laid out as without it.
    """

    def __init__(self, make: Callable[[], Implementation], copied: Sequence[bool]) -> None:
        self._attention = make()
        *self._inputs, self._grad_o = copied

    def forward(self, call: Call) -> tuple[Tensor, Tensor | None]:
        """Compute o and, where `call.return_state`, the final state."""
        return self._attention.forward(self._readable(call))

    def backward(self, upstream: Upstream, call: Call) -> Gradients:
        """Compute the gradients in `upstream.needs`."""
        if self._grad_o and upstream.grad_o is not None:
            upstream = upstream._replace(grad_o=_copy(upstream.grad_o))
        return self._attention.backward(upstream, self._readable(call))

    def _readable(self, call: Call) -> Call:
        q, k, v = (_copy(x) if copied else x for x, copied in zip(call[:3], self._inputs, strict=True))
        return call._replace(q=q, k=k, v=v)


def _copy(x: Tensor) -> Tensor:
    return empty_like(x).copy_(x)


class Rescaling:
    """Calls in float16 of any scale.

    A backward pass is split in two where the scale is small; each kind of call has its own implementation.
    """

    def __init__(self, make: Callable[[], Implementation]) -> None:
        self._attention, self._of_o, self._of_state = make(), make(), make()

    def forward(self, call: Call) -> tuple[Tensor, Tensor | None]:
        """Compute o and, where `call.return_state`, the final state, which no scale changes."""
        rest = _taken_out(call.scale)
        if rest == 1.0:
            return self._attention.forward(call)
        out, state = self._attention.forward(call._replace(scale=call.scale / rest))
        return out.mul_(rest), state

    def backward(self, upstream: Upstream, call: Call) -> Gradients:
        """Compute the gradients in `upstream.needs`."""
        rest = _taken_out(call.scale)
        if rest == 1.0:
            return self._attention.backward(upstream, call)
        scaled = self._of_o.backward(
            upstream._replace(grad_state=None), call._replace(scale=call.scale / rest)
        )
        grads = Gradients(*(None if grad is None else grad.mul_(rest) for grad in scaled))
        if upstream.grad_state is None:
            return grads
        # The gradient of the state has no scale, and divided by `rest` it may leave the range.
        unscaled = self._of_state.backward(upstream._replace(grad_o=None), call._replace(scale=1.0))
        return Gradients(
            *(
                None if grad is None or other is None else grad.add_(other)
                for grad, other in zip(grads, unscaled, strict=True)
            )
        )


def _taken_out(scale: float) -> float:
    """Return a power of two; divided by it, `scale` has at least the magnitude `LEAST_SCALE`."""
    if scale == 0 or abs(scale) >= LEAST_SCALE or not math.isfinite(scale):
        return 1.0
    return math.ldexp(1.0, math.frexp(scale)[1] + 8)
