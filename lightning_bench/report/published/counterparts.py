"""Which providers here compute what a published column shows."""

from __future__ import annotations

from lightning_bench.record import Record

COUNTERPARTS: dict[str, tuple[str, ...]] = {
    "lightning2": ("lightning-official", "lightning2"),
    "flash2": ("flash2",),
    "xformers": ("xformers",),
    "retention": ("fla-retention-fused-chunk", "fla-retention-chunk", "fla-fused-chunk", "fla-chunk"),
    "based": ("fla-based-parallel", "fla-based-fused-chunk"),
    "lightning2-no-decay": ("lightning-official-no-decay", "lightning2-no-decay"),
}
"""Published columns and the providers that compute the same; the library that was published comes first."""

# flash2 has no causal mask in this table.
_WITHOUT_MASK = {("fla-performance", "flash2"): ("flash2-full", "flash2")}


def counterparts(published: Record) -> tuple[str, ...]:
    """Return the providers here that compute what a published row shows; empty if there are none."""
    named = COUNTERPARTS.get(published.provider, ())
    return _WITHOUT_MASK.get((published.suite, published.provider), named)


def same_kernel(column: str) -> str:
    """Return the provider that runs the kernel of a published column.

    Raises KeyError for a column without one.
    """
    return COUNTERPARTS[column][0]
