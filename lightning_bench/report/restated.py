"""Rates and floors of rows by the definitions of today, whatever version of lightning-bench wrote them."""

from __future__ import annotations

import math
from dataclasses import replace

from lightning_bench.errors import UsageError
from lightning_bench.families.work import Work
from lightning_bench.record import Record

_CLOSE = 1e-9


def restated(record: Record) -> Record:
    """Return a row of times with least work, rates and floor as this version counts them.

    The floor is computed from the ceilings that the row was measured with, whose bandwidth `ceiling_of` names
    (that of a copy in older rows); a row without them, or of a family that is not known here, has no floor. A
    row that was written without rates and floor, as of protocol `paper`, is left as it is.
    """
    time = record.median_ms if record.median_ms is not None else record.mean_ms
    if record.metric != "speed" or time is None or (record.floor_ms is None and record.model_flops is None):
        return record
    try:
        work = Work.of(record.family, record.shape, record.direction)
    except UsageError:
        return replace(record, floor_ms=None, floor_ratio=None)
    floor = None
    if record.ceiling_gbps and record.ceiling_tflops:
        floor = work.floor_at(record.ceiling_gbps, record.ceiling_tflops)
    if _same(record.model_flops, work.min_flops) and _same(record.floor_ms, floor):
        return record
    return replace(
        record,
        model_flops=work.min_flops,
        model_bytes=work.min_bytes,
        tflops=work.min_flops / time / 1e9,
        gbps=work.min_bytes / time / 1e6,
        floor_ms=floor,
        floor_ratio=None if floor is None else time / floor,
    )


def _same(figure: float | None, other: float | None) -> bool:
    if figure is None or other is None:
        return figure is other
    return math.isclose(figure, other, rel_tol=_CLOSE)
