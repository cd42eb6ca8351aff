"""The zero-argument calls of protocol `lbench`: forward, backward, and both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_bench.case import Direction
from lightning_bench.measure.deviation import other_layout, wrong_shape
from lightning_bench.measure.inputs import InputSet
from lightning_bench.measure.job import CaseEnded
from lightning_bench.providers.registry.base import Provider

# Taken before any provider is imported, which could replace it.
_grad = torch.autograd.grad
_NO_GRAPH = (
    "autograd cannot differentiate {}: its output requires no gradient; measure --direction fwd only, or "
    "give it a backward pass (torch.autograd.Function; no torch.no_grad() and no detach() on the way)"
)

_NO_WAY = "autograd finds no way from the output of {} to {}: no such gradient is computed"


def _not_a_tensor(output: object) -> str:
    """Describe what a call returned: several values by their types, since a tensor prints as numbers."""
    if isinstance(output, tuple | list) and output:
        kinds = ", ".join(type(value).__name__ for value in output)
        return f"a {type(output).__name__} ({kinds}), not a tensor: only the output is to be returned"
    return f"{output!r:.80}, not a tensor"


@dataclass(frozen=True)
class DirectionCall:
    """`fn` does the work of one direction and returns the named tensors; `kept` gives those from before it.

    `renew` computes again, from the inputs as they are now, what `fn` starts from. `left` gives what a call
    has left in place of its inputs, which is a result too, but nothing that it returns.
    """

    fn: Callable[[], dict[str, Tensor]]
    kept: Callable[[], dict[str, Tensor]]
    renew: Callable[[], None]
    left: Callable[[], dict[str, Tensor]] = field(default=dict)

    def run(self) -> None:
        """Make the call by itself, untimed."""
        self.fn()

    def tensors(self) -> dict[str, Tensor]:
        """Compute and return all results of the direction: output, gradients, or both."""
        return {**self.kept(), **self.fn(), **self.left()}


class _Graph:
    """The output of a forward pass with the graph behind it, for backward passes."""

    def __init__(self, forward: Callable[[], Tensor]) -> None:
        self._forward = forward
        self.output = forward()

    def renew(self) -> None:
        """Run the forward pass again; the old graph is gone by then."""
        del self.output
        self.output = self._forward()


def direction_call(provider: Provider, inputs: InputSet, direction: Direction) -> DirectionCall:
    """Build the call of a direction.

    `fwd` runs under no_grad. `bwd` is autograd.grad on a graph that is built here; gradients are never
    accumulated. `fwd_bwd` builds and uses up a graph in each call. Raise CaseEnded, here or in a call, if the
    gradients of an output are asked for that has no graph, or none to one of the inputs.
    """
    inputs = inputs.of(provider.family)
    if direction != "fwd" and not inputs.gradients:
        raise CaseEnded(
            "unsupported", f"family {provider.family} has no gradients; measure --direction fwd only"
        )
    shared, pool = inputs.given(provider), inputs.pool(provider)
    layout = provider.layout
    do = inputs.grad_output(layout)
    # Its own leaves over the shared storage: autograd ties a leaf to the stream of its first use, and a
    # CUDA graph can only be captured where all of a backward pass is on one stream.
    leaves = {name: shared[name].detach().requires_grad_() for name in inputs.gradients}
    build = provider.build(shared.replaced(leaves))
    if not callable(build):
        raise TypeError(f"build() of {provider.name} returned {build!r:.80}, not a callable")

    def forward() -> Tensor:
        output: object = build()
        if not isinstance(output, Tensor):
            raise TypeError(f"the call of {provider.name} returned {_not_a_tensor(output)}")
        return output

    def with_graph() -> Tensor:
        output = forward()
        if not output.requires_grad:
            raise CaseEnded("unsupported", _NO_GRAPH.format(provider.name))
        return output

    def gradients(output: Tensor, *, retain: bool) -> dict[str, Tensor]:
        try:
            grads = _grad(output, list(leaves.values()), do, retain_graph=retain, allow_unused=True)
        except RuntimeError as error:
            other = tuple(inputs.grad_output(other_layout(layout)).shape)
            if reason := wrong_shape("o", tuple(output.shape), tuple(do.shape), other, layout):
                raise CaseEnded("wrong", reason) from error
            raise
        if unused := [name for name, grad in zip(leaves, grads, strict=True) if grad is None]:
            raise CaseEnded("wrong", _NO_WAY.format(provider.name, ", ".join(unused)))
        return {f"d{name}": grad for name, grad in zip(leaves, grads, strict=True)}

    def fwd() -> dict[str, Tensor]:
        with torch.no_grad():
            return {"o": forward()}

    def fwd_bwd() -> dict[str, Tensor]:
        output = with_graph()
        return {"o": output.detach(), **gradients(output, retain=False)}

    if pool is not None:
        signed, _ = inputs.signed(provider.layout)

        def fill() -> None:
            pool.fill(signed.signs)

        fill()
        return DirectionCall(fwd, dict, fill, lambda: {"state": pool.left()})
    if direction == "fwd":
        return DirectionCall(fwd, dict, _nothing)
    if direction == "fwd_bwd":
        return DirectionCall(fwd_bwd, dict, _nothing)
    graph = _Graph(with_graph)
    return DirectionCall(
        lambda: gradients(graph.output, retain=True), lambda: {"o": graph.output.detach()}, graph.renew
    )


def _nothing() -> None:
    pass
