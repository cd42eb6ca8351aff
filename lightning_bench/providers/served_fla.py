"""Simple GLA of flash-linear-attention from states to states, which torch copies from the pool and back."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from lightning_bench.case import DTYPES
from lightning_bench.providers.served import Batch, ServedProvider

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


class FlaRecurrentServe(ServedProvider):
    """`fused_recurrent_simple_gla`, token by token."""

    name = "fla-recurrent-serve"
    label = "FLA simple GLA, serving (fused recurrent)"
    package = "fla-core"
    summary = "flash-linear-attention, token by token, states copied"
    function: ClassVar[str] = "fused_recurrent_simple_gla"
    dtypes = DTYPES
    self_tuning = True
    packs = True

    def load(self) -> None:
        """Import the function. Raise ImportError if fla-core or Triton is broken or has no such function."""
        self._attend()

    def _attend(self) -> Callable[..., Any]:
        try:
            return getattr(import_module("fla.ops.simple_gla"), self.function)  # type: ignore[no-any-return]
        except AttributeError as error:
            raise ImportError(f"fla.ops.simple_gla has no {self.function}") from error

    def serve(self, batch: Batch) -> Callable[[], Tensor]:
        """Return the call, of packed sequences in the int64 that the library documents."""
        attend, gamma, bounds = self._attend(), -batch.slopes, batch.bounds.long()
        q, k, v = (x[None] for x in (batch.q, batch.k, batch.v))
        given = {"g_gamma": gamma, "scale": 1.0, "output_final_state": True, "cu_seqlens": bounds}
        return batch.carried(lambda states: attend(q, k, v, initial_state=states, **given))


class FlaChunkServe(FlaRecurrentServe):
    """`chunk_simple_gla`."""

    name = "fla-chunk-serve"
    label = "FLA simple GLA, serving (chunk)"
    summary = "flash-linear-attention, chunk states written to memory, states copied"
    function = "chunk_simple_gla"
    tf32 = True
