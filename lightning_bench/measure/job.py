"""What a worker is asked to measure, and what it answers. Plain data: both cross a process boundary."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lightning_bench.case import Case, Metric, ProtocolName, Shape
from lightning_bench.record import Status
from lightning_bench.suite import Limits

# Seconds of a worker are booked under these; everything else is overhead that a sweep should not have.
USEFUL_PHASES = frozenset({"warm-up", "oracle", "samples"})


@dataclass(frozen=True)
class Job:
    """The cases of one shape and how to measure them."""

    cases: tuple[Case, ...]
    metric: Metric
    protocol: ProtocolName
    limits: Limits
    graph: bool = False
    seed: int = 0

    @property
    def shape(self) -> Shape:
        """The shape that all cases share."""
        return self.cases[0].shape


@dataclass(frozen=True)
class Outcome:
    """How one case ended: ``figures`` are fields of a Record, ``samples`` go to the sidecar."""

    case: Case
    status: Status
    reason: str = ""
    figures: dict[str, Any] = field(default_factory=dict)
    samples: dict[str, Any] = field(default_factory=dict)
