"""Mix: in which proportion a task reads and writes memory. Bandwidth depends on it by some per cent."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

# More arrays would tell mixes apart whose bandwidths differ by less than two measurements of one.
_MOST_ARRAYS = 12

COPY = "copy"
"""What rows call the ceiling of a copy, where they say which one they are compared with."""


@dataclass(frozen=True)
class Mix:
    """So many arrays of equal size are read, and so many written: 3:1 are q, k, v and o."""

    reads: int
    writes: int

    @classmethod
    def nearest(cls, read_bytes: int, write_bytes: int) -> Mix:
        """Return the mix of at most twelve arrays whose share of reads is the nearest."""
        share = Fraction(read_bytes, read_bytes + write_bytes).limit_denominator(_MOST_ARRAYS)
        return cls(share.numerator, share.denominator - share.numerator)

    def __str__(self) -> str:
        return f"{self.reads}:{self.writes}"


EVEN = Mix(1, 1)
"""The mix of a copy."""
