"""Simple GLA of flash-linear-attention (package fla-core): the same function as Lightning Attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from lightning_bench.case import DTYPES, Direction, Shape
from lightning_bench.providers.base import Inputs, Provider

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


class _SimpleGla(Provider):
    """A function of ``fla.ops.simple_gla`` with ``g_gamma`` = −s [h] (a log decay per head) and scale 1."""

    family = "linear_decay"
    layout = "bnhd"
    package = "fla-core"
    dtypes = DTYPES
    tf32 = True
    function: ClassVar[str]

    def load(self) -> None:
        """Import the function; ImportError where fla-core or Triton is broken."""
        self._function()

    def build(self, inputs: Inputs) -> Callable[[], Tensor]:
        """A call that gives the output [b, n, h, value_dim]; the final state is not asked for."""
        attend = self._function()
        q, k, v, log_decay = inputs.q, inputs.k, inputs.v, -inputs.decay

        def forward() -> Tensor:
            output: Tensor = attend(q, k, v, g_gamma=log_decay, scale=1.0)[0]
            return output

        return forward

    def _function(self) -> Callable[..., Any]:
        from fla.ops import simple_gla

        try:
            return getattr(simple_gla, self.function)  # type: ignore[no-any-return]
        except AttributeError as error:
            raise ImportError(f"fla.ops.simple_gla has no {self.function}") from error


class FlaChunk(_SimpleGla):
    """``chunk_simple_gla``: every chunk's state goes through memory."""

    name = "fla-chunk"
    label = "FLA simple GLA (chunk)"
    summary = "flash-linear-attention, chunk states written to memory"
    function = "chunk_simple_gla"

    def unsupported(self, shape: Shape, direction: Direction) -> str | None:
        """Why this case is outside what the function does, or None."""
        reason = super().unsupported(shape, direction)
        odd = shape.head_dim % 2 or shape.value_dim % 2
        if reason is None and odd and direction != "fwd" and shape.dtype != "fp32":
            return f"{self.name} has no 16-bit backward for an odd head_dim or value_dim"
        return reason


class FlaFusedChunk(_SimpleGla):
    """``fused_chunk_simple_gla``: one kernel walks the sequence with the state on chip."""

    name = "fla-fused-chunk"
    label = "FLA simple GLA (fused chunk)"
    summary = "flash-linear-attention, one fused pass"
    function = "fused_chunk_simple_gla"
