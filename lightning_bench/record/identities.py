"""Whether rows that are compared were measured on one device, set in one way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lightning_bench.case import TIMED
from lightning_bench.record.codec import format_cell
from lightning_bench.record.row import Record

IDENTITY = (
    "host",
    "gpu_uuid",
    "power_limit_w",
    "sm_clock_limit_mhz",
    "memory_clock_limit_mhz",
    "mig",
    "ecc",
)
"""Columns that say which host and GPU it was and how it was set; a `Machine` has fields of these names."""

_MOST = 4

_OF_A_DEVICE = TIMED | {"energy"}
"""Metrics whose figures depend on which GPU of a kind it was."""


def unlike(sides: Mapping[str, Iterable[Record]]) -> list[str]:
    """Return a sentence for each of `IDENTITY` in which rows of time or energy on one kind of device differ.

    `sides` are the rows by the name of whatever they stand for, such as a provider. A blank, as in rows of
    older versions, differs from nothing. Where the GPU is known, the host does not matter.
    """
    seen: dict[tuple[str, str], dict[str, dict[str, None]]] = {}
    for side, records in sides.items():
        for record in records:
            if record.metric not in _OF_A_DEVICE or not record.worked:
                continue
            for column in IDENTITY:
                text = format_cell(getattr(record, column))
                if text and not (column == "host" and record.gpu_uuid):
                    values = seen.setdefault((record.machine_id, column), {})
                    values.setdefault(text, {})[side] = None
    sentences = {column: _sentence(column, values) for (_, column), values in seen.items() if len(values) > 1}
    return [sentences[column] for column in IDENTITY if column in sentences]


def _sentence(column: str, values: Mapping[str, Iterable[str]]) -> str:
    shown = [f"{value} ({', '.join(sides)})" for value, sides in values.items()]
    if more := shown[_MOST:]:
        shown[_MOST:] = [f"and {len(more)} more"]
    return f"{column} differs: {', '.join(shown)}"
