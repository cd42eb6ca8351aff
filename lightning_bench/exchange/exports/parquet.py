"""Rows as an Apache Parquet table, whose columns carry their meanings; needs pyarrow, the extra `parquet`."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import get_type_hints

from lightning_bench.errors import UsageError
from lightning_bench.record import Record
from lightning_bench.record.row import COLUMNS


def parquet_table(records: Sequence[Record]) -> bytes:
    """Return a Parquet file with a column per field of a record: text, integers or floats, null if blank.

    Raises UsageError without pyarrow.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise UsageError(
            'format parquet needs pyarrow, which is not installed; pip install "lightning-bench[parquet]"'
        ) from None

    types = {str: pa.string(), int: pa.int64(), float: pa.float64()}

    def column_type(hint: object) -> pa.DataType:
        wanted = (hint, *getattr(hint, "__args__", ()))
        return next((types[each] for each in (int, float) if each in wanted), types[str])

    hints = get_type_hints(Record)
    schema = pa.schema(
        [
            pa.field(name, column_type(hints[name]), metadata={"description": meaning})
            for name, meaning in COLUMNS.items()
        ]
    )
    rows = {name: [getattr(record, name) for record in records] for name in COLUMNS}
    file = io.BytesIO()
    parquet.write_table(pa.table(rows, schema=schema), file)
    return file.getvalue()
