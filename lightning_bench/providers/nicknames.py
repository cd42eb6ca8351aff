"""Other names of attention kernels, as people write them, for suggestions: `fa2` for `flash2`."""

from __future__ import annotations

import re

_FLASH = re.compile(r"\b(?:flash-?att(?:entio)?n|fa)-?v?(\d*)")
_LIGHTNING = re.compile(r"\blightning-?att(?:entio)?n-?v?(\d*)")
_OTHER = {
    "torch": "sdpa",
    "pytorch": "sdpa",
    "scaled-dot-product-attention": "sdpa",
    "eager": "sdpa-math",
    "naive": "sdpa-math",
    "flash-linear-attention": "fla",
    "fla-core": "fla",
    "simple-gla": "fla-chunk",
    "retnet": "retention",
    "deltanet": "delta",
    "gated-deltanet": "gated-delta",
    "kimi-linear": "kda",
    "mamba": "mamba2",
    "mamba-2": "mamba2",
}
_LACKING = {"flash3": ("FlashAttention-3", ("flash2", "flash4"))}
"""Kernels that no provider wraps, with the providers that are nearest to them."""


def plain_name(word: str) -> str:
    """Return `word` as names of providers have it: `flash2` of FlashAttention-2, `sdpa` of PyTorch."""
    name = re.sub(r"[_ ]+", "-", word.strip().lower())
    if name in _OTHER:
        return _OTHER[name]
    return _LIGHTNING.sub(r"lightning\1", _FLASH.sub(r"flash\1", name))


def lacking(word: str) -> tuple[str, tuple[str, ...]] | None:
    """Return the kernel that `word` names and no provider wraps, and the nearest providers; or None."""
    return _LACKING.get(plain_name(word))
