"""Other names of attention kernels, as people write them, for suggestions: `fa2` for `flash2`."""

from __future__ import annotations

import re

_FLASH = re.compile(r"(?:flash[-_ ]?att(?:entio)?n|fa)[-_ ]?v?(\d*)")


def plain_name(word: str) -> str:
    """Return `word` with the names of FlashAttention shortened as those of providers: `flash`, `flash2`."""
    return _FLASH.sub(r"flash\1", word.lower())
