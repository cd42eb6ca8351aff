"""Result files: the row, the file that a sweep appends to, and the reading of such files.

`lightning_bench.record.frame` loads them into one pandas DataFrame; it is not imported here.
"""

from lightning_bench.record.file import ResultFile
from lightning_bench.record.latest import case_key, last_row, latest, latest_by, suite_case_key
from lightning_bench.record.read import read_records, read_rows
from lightning_bench.record.row import (
    AUTOTUNED,
    COLUMNS,
    FAILED,
    STATUSES,
    TUNED_BEFORE,
    WORKED,
    Record,
    Row,
    Status,
)

__all__ = [
    "AUTOTUNED",
    "COLUMNS",
    "FAILED",
    "STATUSES",
    "TUNED_BEFORE",
    "WORKED",
    "Record",
    "ResultFile",
    "Row",
    "Status",
    "case_key",
    "last_row",
    "latest",
    "latest_by",
    "read_records",
    "read_rows",
    "suite_case_key",
]
