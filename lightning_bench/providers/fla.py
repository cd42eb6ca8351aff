"""The base of all functions of flash-linear-attention (package fla-core), and its simple GLA.

Simple GLA with one decay per head is the same function as Lightning Attention. The other systems are in
`fla_systems.py`.
"""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from lightning_bench.case import DTYPES, Direction, Shape
from lightning_bench.errors import Unavailable
from lightning_bench.providers.registry.base import Inputs, Provider

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


class FlaFunction(Provider):
    """A function of `fla.ops`, without its final state."""

    layout = "bnhd"
    package = "fla-core"
    dtypes = DTYPES
    tf32 = True
    self_tuning = True
    module: ClassVar[str]
    """The module below `fla.ops`."""
    function: ClassVar[str]
    takes: ClassVar[tuple[str, ...]] = ("q", "k", "v")
    """Names of its parameters that are inputs of the same name."""
    renamed: ClassVar[tuple[tuple[str, str], ...]] = ()
    """(parameter, input) pairs of those whose names differ."""
    scale: ClassVar[float | None] = None
    """The scale to pass; None if the function's default is the family's."""

    def load(self) -> None:
        """Import the function. Raise ImportError if fla-core or Triton is broken or has no such function.

        Raise Unavailable, with the library's message, if the function exists only to refuse every call.
        """
        function = self._function()
        if any(name not in inspect.signature(function).parameters for name in self.parameters()):
            try:
                function()
            except NotImplementedError as error:
                raise Unavailable(f"{self.package} {self.version()}: {error}") from error
            except TypeError:
                pass
            wanted = ", ".join(self.parameters())
            raise ImportError(f"fla.ops.{self.module}.{self.function} does not take {wanted}")

    def parameters(self) -> dict[str, str]:
        """Return which input of the family each parameter of the function takes."""
        return {**{name: name for name in self.takes}, **dict(self.renamed)}

    def build(self, inputs: Inputs) -> Callable[[], Tensor]:
        """Return a call that computes the output [b, n, h, value_dim]."""
        attend = self._function()
        given: dict[str, Any] = {name: inputs[of] for name, of in self.parameters().items()}
        if self.scale is not None:
            given["scale"] = self.scale
        if inputs.cu_seqlens is not None:
            given["cu_seqlens"] = inputs.cu_seqlens

        def forward() -> Tensor:
            result = attend(**given)
            output: Tensor = result[0] if isinstance(result, tuple) else result
            return output

        return forward

    def _function(self) -> Callable[..., Any]:
        module = import_module(f"fla.ops.{self.module}")
        try:
            return getattr(module, self.function)  # type: ignore[no-any-return]
        except AttributeError as error:
            raise ImportError(f"fla.ops.{self.module} has no {self.function}") from error


class _SimpleGla(FlaFunction):
    """A function of `fla.ops.simple_gla` with `g_gamma` = −s [h] (a log decay per head) and scale 1."""

    family = "linear_decay"
    module = "simple_gla"
    scale = 1.0
    renamed = (("g_gamma", "decay"),)
    packs = True

    def build(self, inputs: Inputs) -> Callable[[], Tensor]:
        """Return a call that computes the output [b, n, h, value_dim].

        Log decays, and the starts of packed documents in the int64 that the library documents, are computed
        once, here.
        """
        inputs = inputs.replaced({"decay": -inputs.decay})
        if inputs.cu_seqlens is not None:
            inputs = inputs.replaced({"cu_seqlens": inputs.cu_seqlens.long()})
        return super().build(inputs)


class FlaChunk(_SimpleGla):
    """`chunk_simple_gla`: the state of every chunk is written to memory."""

    name = "fla-chunk"
    label = "FLA simple GLA (chunk)"
    summary = "flash-linear-attention, chunk states written to memory"
    function = "chunk_simple_gla"

    def unsupported(self, shape: Shape, direction: Direction) -> str | None:
        """Return why the function does not support this case, or None."""
        reason = super().unsupported(shape, direction)
        odd = shape.head_dim % 2 or shape.value_dim % 2
        if reason is None and odd and direction != "fwd" and shape.dtype != "fp32":
            return f"{self.name} has no 16-bit backward for an odd head_dim or value_dim"
        return reason


class FlaFusedChunk(_SimpleGla):
    """`fused_chunk_simple_gla`: one kernel walks the sequence with the state on chip."""

    name = "fla-fused-chunk"
    label = "FLA simple GLA (fused chunk)"
    summary = "flash-linear-attention, one fused pass"
    function = "fused_chunk_simple_gla"


class FlaRecurrent(_SimpleGla):
    """`fused_recurrent_simple_gla`: token by token, one program per slice of the state."""

    name = "fla-recurrent"
    label = "FLA simple GLA (fused recurrent)"
    summary = "flash-linear-attention, token by token"
    function = "fused_recurrent_simple_gla"
    tf32 = False
