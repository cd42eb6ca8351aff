"""Result files: the row, the file that a sweep appends to, and the reading of such files."""

from lightning_bench.record.row import (
    COLUMNS,
    FAILED,
    SAMPLES_KEY,
    STATUSES,
    Record,
    ResultFile,
    Status,
    latest,
    merge,
    read_records,
)

__all__ = [
    "COLUMNS",
    "FAILED",
    "SAMPLES_KEY",
    "STATUSES",
    "Record",
    "ResultFile",
    "Status",
    "latest",
    "merge",
    "read_records",
]
