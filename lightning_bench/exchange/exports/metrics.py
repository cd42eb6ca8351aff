"""Which figures of a row an export publishes, and in which unit: one list for all formats of metrics."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_bench.record import Record


@dataclass(frozen=True)
class ExportedMetric:
    """A figure of a row under the name of its column, with the 95 % interval if it has one."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None


def exported_metrics(record: Record) -> list[ExportedMetric]:
    """Return the figures of a row that worked: times, rates, memory and errors that it has."""
    if not record.worked:
        return []
    found = []
    if (time := record.median_ms) is not None:
        found.append(ExportedMetric("median_ms", time, record.ci_low_ms, record.ci_high_ms))
    elif record.mean_ms is not None:
        found.append(ExportedMetric("mean_ms", record.mean_ms))
    others = {
        "tflops": record.tflops,
        "gbps": record.gbps,
        "extra_mib": record.extra_mib,
        "peak_mib": record.peak_mib,
        "error_o": record.error_o,
    }
    return found + [ExportedMetric(name, value) for name, value in others.items() if value is not None]
