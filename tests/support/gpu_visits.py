"""Calls of the zoo's `Visits`: on which GPU each was, and whether two were on one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path


@dataclass(frozen=True)
class Visit:
    """One call of a provider: the GPU that its worker sees, and when it began and ended."""

    gpu: str
    pid: int
    begin_s: float
    end_s: float


def visits(folder: Path) -> list[Visit]:
    """Return the calls so far, in order."""
    found = [path.read_text().split() for path in folder.glob("visit-*")]
    return sorted(
        (Visit(gpu, int(pid), float(a), float(b)) for gpu, pid, a, b in found), key=lambda v: v.begin_s
    )


def assert_one_at_a_time(found: Sequence[Visit], gpus: set[str]) -> None:
    """Assert that all of these GPUs were used and no other, each by one call at a time."""
    by_gpu: dict[str, list[Visit]] = {}
    for visit in found:
        by_gpu.setdefault(visit.gpu, []).append(visit)
    assert by_gpu.keys() == gpus
    for of_one in by_gpu.values():
        assert all(before.end_s <= after.begin_s for before, after in pairwise(of_one))
