"""What the published tables measured: findings whose figures are computed from rows and never typed.

If the evidence is a measurement that is not among the rows yet, the finding says so and names the command.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from lightning_bench.record import Row
from lightning_bench.report.published.evidence import Evidence
from lightning_bench.report.published.memory_findings import (
    mean_of_peaks,
    memory_titled_speed,
    renamed_columns,
    xformers_then_and_now,
)
from lightning_bench.report.published.prose import Finding, write_finding
from lightning_bench.report.published.speed_findings import accumulated_gradients, no_causal_mask


def findings(published: Iterable[Row], measured: Iterable[Row], faults: Iterable[Path] = ()) -> list[Finding]:
    """Return every finding, with the files that it used.

    `measured` are rows of one machine at the published shapes: batch 4 (8 for flash-linear-attention's),
    32 heads, head_dim 128, bf16. Raises UsageError for a file of faults that cannot be read.
    """
    evidence = Evidence(published, measured, faults)
    figures: tuple[Callable[[Evidence], object], ...] = (
        accumulated_gradients,
        renamed_columns,
        memory_titled_speed,
        no_causal_mask,
        xformers_then_and_now,
        mean_of_peaks,
    )
    found = []
    for finding in figures:
        evidence.used = {}
        values = finding(evidence)
        found.append(write_finding(finding.__name__, values, sorted(evidence.used)))
    return found
