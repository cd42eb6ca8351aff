"""`load` and `samples`: result files as DataFrames."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lightning_bench.api.measurement import Measurement
from lightning_bench.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

Source = str | Path | Measurement
"""A CSV of lbench, a folder of them, or what a call has measured."""


def load(*sources: Source) -> pd.DataFrame:
    """Return all rows of CSVs and folders, one line per row, in order.

    Columns are those of the CSV, with units in their names, and `source`, the file. `status` is a category,
    figures are float64 with NaN where none was taken, counts Int64, texts strings. Raise UsageError for a
    path that does not exist and for a file that lbench did not write.
    """
    from lightning_bench.record.frame import load as load_files

    return load_files(paths_of(sources))


def samples(*sources: Source) -> pd.DataFrame:
    """Return every sample behind the rows of CSVs and folders, one line per value.

    Columns: `case_id`, `metric`, `protocol`, `provider_version`, `machine_id`, `pair`, `line` (which process
    or repetition), `quantity` (`samples_ms`, `call_ms`, `graph_ms`, `sm_clock_mhz` or `power_w`), `index` and
    `value`. Raise UsageError as `load` does.
    """
    from lightning_bench.record.frame import load_samples

    return load_samples(paths_of(sources))


def paths_of(sources: tuple[Source, ...]) -> list[Path]:
    """Return the files and folders that were given. Raise UsageError for none."""
    if not sources:
        raise UsageError("no CSV was given: name one, or a folder of them")
    return [each.path if isinstance(each, Measurement) else Path(each).expanduser() for each in sources]
