"""Result files as one typed pandas DataFrame. Import it lazily: pandas takes a fifth of a second."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pandas as pd

from lightning_bench.record.read import read_rows
from lightning_bench.record.row import STATUSES, Figure, Record, Row

_STATUS = pd.CategoricalDtype(list(STATUSES))


def load(paths: Sequence[str | Path], *, set_aside: bool = False) -> pd.DataFrame:
    """Return all rows of result files and folders; see `to_frame` for its columns, `read_rows` for errors."""
    return to_frame(read_rows(paths, set_aside=set_aside).rows)


def to_frame(rows: Iterable[Row]) -> pd.DataFrame:
    """Return one line per row, in order: the columns of `COLUMNS`, with units in their names, and `source`.

    `status` is a category of `STATUSES`, counts are Int64, figures float64 with NaN where none was taken,
    texts are strings, blank if there is none.
    """
    rows = list(rows)
    columns: dict[str, Any] = {
        name: _column([getattr(row.record, name) for row in rows], name, hint)
        for name, hint in get_type_hints(Record).items()
    }
    columns["source"] = _column([row.source for row in rows], "source", str)
    return pd.DataFrame(columns)


def _column(values: list[Any], name: str, hint: object) -> Any:
    if hint == Figure:
        return np.array(values, dtype=np.float64)
    if hint in (int, int | None):
        return pd.array(values, dtype="Int64")
    return pd.Categorical(values, dtype=_STATUS) if name == "status" else pd.array(values, dtype="string")
