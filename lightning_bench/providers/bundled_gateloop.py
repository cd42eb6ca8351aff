"""GateLoop: the bundled Triton scan, and PyTorch's own associative_scan."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar

from lightning_bench.case import Direction, Family, Shape
from lightning_bench.providers.bundled import BundledProvider
from lightning_bench.providers.registry.base import Inputs

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


class _GateLoop(BundledProvider):
    """A function `(q, k, v, log_decay, phase) -> o` of `lightning_kernels`, channel by channel."""

    family: ClassVar[Family] = "gateloop"

    def unsupported(self, shape: Shape, direction: Direction) -> str | None:
        """Return why the function does not support this case, or None."""
        reason = super().unsupported(shape, direction)
        if reason is None and shape.value_dim != shape.head_dim:
            return f"{self.name} needs value_dim = head_dim, not {shape.value_dim} and {shape.head_dim}"
        return reason

    def build(self, inputs: Inputs) -> Callable[[], Tensor]:
        """Return a call that computes the output [b, h, n, value_dim]."""
        phase = inputs["phase"] if self.family == "gateloop_complex" else None
        return partial(self._function(), inputs.q, inputs.k, inputs.v, inputs["g"], phase)


class GateLoopTriton(_GateLoop):
    """`lightning_kernels.gate_loop` with real gates."""

    name = "gateloop"
    label = "GateLoop (ours)"
    summary = "bundled Triton scan, real gates"
    function = "gate_loop"
    needs = ("triton",)


class GateLoopTorch(_GateLoop):
    """`lightning_kernels.gate_loop_torch` with real gates: `associative_scan` of PyTorch, eager."""

    name = "gateloop-torch"
    label = "GateLoop (PyTorch scan)"
    summary = "PyTorch's associative_scan, real gates; runs on the CPU too"
    function = "gate_loop_torch"
    devices = ("cuda", "cpu")


class GateLoopComplexTriton(GateLoopTriton):
    """`lightning_kernels.gate_loop` with complex gates."""

    name = "gateloop-complex"
    label = "GateLoop (ours, complex)"
    family = "gateloop_complex"
    summary = "bundled Triton scan, complex gates"


class GateLoopComplexTorch(GateLoopTorch):
    """`lightning_kernels.gate_loop_torch` with complex gates."""

    name = "gateloop-complex-torch"
    label = "GateLoop (PyTorch scan, complex)"
    family = "gateloop_complex"
    summary = "PyTorch's associative_scan, complex gates; runs on the CPU too"
