"""Rows in the Bencher Metric Format (https://bencher.dev/docs/reference/bencher-metric-format)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from lightning_bench.exchange.exports.json_rows import json_line
from lightning_bench.exchange.exports.metrics import exported_metrics
from lightning_bench.record import Record
from lightning_bench.record.latest import latest

_LONGEST_NAME = 1024
# Bencher's own measure of time is `latency`, in nanoseconds; others are named after their column.
_NANOSECONDS = 1e6
_MEASURES = {
    "median_ms": ("latency", _NANOSECONDS),
    "mean_ms": ("latency", _NANOSECONDS),
}


def bencher_metrics(records: Sequence[Record]) -> bytes:
    """Return BMF: measures by benchmark, which is a case; `latency` is in ns, other measures as in the row.

    Of several rows of a case the latest counts. A case of several machines or protocols has both in its name.
    """
    newest = [record for record in latest(records) if exported_metrics(record)]
    places = {(record.case_id, record.machine_id, record.protocol) for record in newest}
    often = Counter(case_id for case_id, _, _ in places)
    benchmarks: dict[str, dict[str, dict[str, float]]] = {}
    for record in newest:
        name = record.case_id
        if often[name] > 1:
            name += f" {record.machine_id} {record.protocol}"
        measures = benchmarks.setdefault(name[:_LONGEST_NAME], {})
        for metric in exported_metrics(record):
            slug, scale = _MEASURES.get(metric.name, (metric.name.replace("_", "-"), 1.0))
            ends = {"value": metric.value, "lower_value": metric.low, "upper_value": metric.high}
            measures[slug] = {key: scale * end for key, end in ends.items() if end is not None}
    lines = ",\n".join(f"{json_line(name)}: {json_line(measures)}" for name, measures in benchmarks.items())
    return f"{{\n{lines}\n}}\n".encode()
