"""The other systems of flash-linear-attention, each by the functions that its documentation names."""

from __future__ import annotations

from typing import ClassVar

from lightning_bench.case import Direction, Shape
from lightning_bench.providers.fla import FlaFunction


class _Limited(FlaFunction):
    """A function whose head_dim has a limit, which the library asserts."""

    max_head_dim: ClassVar[int]

    def unsupported(self, shape: Shape, direction: Direction) -> str | None:
        """Return why the function does not support this case, or None."""
        reason = super().unsupported(shape, direction)
        if reason is None and shape.head_dim > self.max_head_dim:
            return f"{self.name} takes head_dim up to {self.max_head_dim}, not {shape.head_dim}"
        return reason


class _Retention(FlaFunction):
    """A function that computes RetNet's decays itself, in each call, from the number of heads."""

    family = "retention"
    module = "retention"


class RetentionParallel(_Retention):
    """`parallel_retention`: all pairs of tokens, in time quadratic in n."""

    name = "fla-retention-parallel"
    label = "FLA retention (parallel)"
    summary = "flash-linear-attention, all pairs of tokens"
    function = "parallel_retention"


class RetentionRecurrent(_Retention):
    """`fused_recurrent_retention`: token by token, one program per slice of the state."""

    name = "fla-retention-recurrent"
    label = "FLA retention (fused recurrent)"
    summary = "flash-linear-attention, token by token"
    function = "fused_recurrent_retention"
    tf32 = False


class RetentionChunk(_Retention):
    """`chunk_retention`: the state of every chunk is written to memory."""

    name = "fla-retention-chunk"
    label = "FLA retention (chunk)"
    summary = "flash-linear-attention, chunk states written to memory"
    function = "chunk_retention"


class RetentionFusedChunk(_Retention):
    """`fused_chunk_retention`: one kernel walks the sequence with the state on chip."""

    name = "fla-retention-fused-chunk"
    label = "FLA retention (fused chunk)"
    summary = "flash-linear-attention, one fused pass"
    function = "fused_chunk_retention"


class _Gla(FlaFunction):
    family = "gla"
    module = "gla"
    takes: ClassVar[tuple[str, ...]] = ("q", "k", "v", "g")


class GlaRecurrent(_Gla):
    """`fused_recurrent_gla`: token by token."""

    name = "fla-gla-recurrent"
    label = "FLA GLA (fused recurrent)"
    summary = "flash-linear-attention, token by token"
    function = "fused_recurrent_gla"
    takes = ("q", "k", "v")
    renamed = (("gk", "g"),)
    tf32 = False


class GlaChunk(_Gla):
    """`chunk_gla`: the state of every chunk is written to memory."""

    name = "fla-gla-chunk"
    label = "FLA GLA (chunk)"
    summary = "flash-linear-attention, chunk states written to memory"
    function = "chunk_gla"


class GlaFusedChunk(_Gla):
    """`fused_chunk_gla`: fla-core 0.6.0 keeps the name and refuses the call."""

    name = "fla-gla-fused-chunk"
    label = "FLA GLA (fused chunk)"
    summary = "flash-linear-attention, one fused pass, where the version has it"
    function = "fused_chunk_gla"


class BasedParallel(_Limited):
    """`parallel_based`: all pairs of tokens, in time quadratic in n."""

    name = "fla-based-parallel"
    label = "FLA Based (parallel)"
    family = "based"
    summary = "flash-linear-attention, all pairs of tokens; feature dim up to 128"
    module = "based"
    function = "parallel_based"
    max_head_dim = 128
    tf32 = False


class BasedFusedChunk(_Limited):
    """`fused_chunk_based`: one kernel walks the sequence with the state of all features on chip."""

    name = "fla-based-fused-chunk"
    label = "FLA Based (fused chunk)"
    family = "based"
    summary = "flash-linear-attention, one fused pass; feature dim up to 16"
    module = "based"
    function = "fused_chunk_based"
    max_head_dim = 16
    tf32 = False


class _Rwkv6(FlaFunction):
    family = "rwkv6"
    module = "rwkv6"
    takes = ("k", "v", "w", "u")
    renamed = (("r", "q"),)


class Rwkv6Recurrent(_Rwkv6):
    """`fused_recurrent_rwkv6`: token by token."""

    name = "fla-rwkv6-recurrent"
    label = "FLA RWKV-6 (fused recurrent)"
    summary = "flash-linear-attention, token by token"
    function = "fused_recurrent_rwkv6"
    tf32 = False


class Rwkv6Chunk(_Rwkv6):
    """`chunk_rwkv6`: the state of every chunk is written to memory."""

    name = "fla-rwkv6-chunk"
    label = "FLA RWKV-6 (chunk)"
    summary = "flash-linear-attention, chunk states written to memory"
    function = "chunk_rwkv6"


class AbcChunk(FlaFunction):
    """`chunk_abc`: two passes, over the slots' keys and values."""

    name = "fla-abc-chunk"
    label = "FLA ABC (chunk)"
    family = "abc"
    summary = "flash-linear-attention, chunk states written to memory"
    module = "abc"
    function = "chunk_abc"
    takes = ("q", "k", "v", "s")
    tf32 = False


class Mamba2Chunk(FlaFunction):
    """`chunk_simple_gla` with a log decay of each token and head: the matrix of SSD."""

    name = "fla-mamba2-chunk"
    label = "FLA Mamba-2 SSD (chunk simple GLA)"
    family = "mamba2"
    summary = "flash-linear-attention, chunk states written to memory"
    module = "simple_gla"
    function = "chunk_simple_gla"
    takes = ("q", "k", "v", "g")
    scale = 1.0


class GatedDeltaChunk(_Limited):
    """`chunk_gated_delta_rule`; its q and k are normalised, its g and beta activated."""

    name = "fla-gated-delta-chunk"
    label = "FLA Gated DeltaNet (chunk)"
    family = "gated_delta"
    summary = "flash-linear-attention, chunk states written to memory; head_dim up to 256"
    module = "gated_delta_rule"
    function = "chunk_gated_delta_rule"
    takes = ("q", "k", "v", "g", "beta")
    max_head_dim = 256


class KdaChunk(_Limited):
    """`chunk_kda`; its q and k are normalised, its g and beta activated."""

    name = "fla-kda-chunk"
    label = "FLA KDA (chunk)"
    family = "kda"
    summary = "flash-linear-attention, chunk states written to memory; head_dim up to 256"
    module = "kda"
    function = "chunk_kda"
    takes = ("q", "k", "v", "g", "beta")
    max_head_dim = 256
