"""Whether Triton interprets its kernels in this process, so that their times say nothing about them."""

from __future__ import annotations

import os

_ON = ("1", "true", "on", "yes", "y")


def interprets_kernels() -> bool:
    """Return whether TRITON_INTERPRET is set, as Triton reads it."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in _ON
