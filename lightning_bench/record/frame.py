"""Result files as one typed pandas DataFrame. Import it lazily: pandas takes a fifth of a second."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pandas as pd

from lightning_bench.errors import UsageError
from lightning_bench.record.discover import result_files
from lightning_bench.record.read import read_rows
from lightning_bench.record.row import KEY, STATUSES, CaseKey, Figure, Record, Row
from lightning_bench.record.samples import read_samples, sidecar_path

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


def load_samples(paths: Sequence[str | Path]) -> pd.DataFrame:
    """Return every sample beside result files and folders of them, one line per value.

    `case_id`, `metric`, `protocol`, `provider_version` and `machine_id` name the row. `quantity` is what was
    read: `samples_ms`, `call_ms`, `graph_ms`, or `sm_clock_mhz` and `power_w` beside them; `index` counts its
    values. `line` counts the processes and repetitions that measured a row, `pair` names the pass of a
    comparison. Raise UsageError as `read_rows` does, and for samples that cannot be read.
    """
    parts: list[pd.DataFrame] = []
    for path in result_files(paths).files:
        sidecar = sidecar_path(path)
        file = read_samples(sidecar)
        if whole := [fault for fault in file.faults if not fault.torn]:
            raise UsageError(f"{sidecar}, line {whole[0].number}: no samples of lbench ({whole[0].error})")
        counts: Counter[CaseKey] = Counter()
        for line in file.lines:
            named = dict(zip(KEY, line.key, strict=True)) | {"pair": line.pair, "line": counts[line.key]}
            counts[line.key] += 1
            parts += (
                pd.DataFrame({**named, "quantity": name, "index": range(len(values)), "value": values})
                for name, values in line.samples.items()
            )
    columns = [*KEY, "pair", "line", "quantity", "index", "value"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def _column(values: list[Any], name: str, hint: object) -> Any:
    if hint == Figure:
        return np.array(values, dtype=np.float64)
    if hint in (int, int | None):
        return pd.array(values, dtype="Int64")
    return pd.Categorical(values, dtype=_STATUS) if name == "status" else pd.array(values, dtype="string")
