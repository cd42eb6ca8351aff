"""The CSV of `triton.testing.perf_report` (`run(save_path=...)`), whose columns are `NAME (UNIT)`."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from lightning_bench.comparison.sides import Run
from lightning_bench.errors import UsageError
from lightning_bench.exchange.imports.foreign_run import ForeignPlace, foreign_run

_COLUMN = re.compile(r"(.+) \((.*)\)")
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9}


def is_perf_report(columns: Sequence[str]) -> bool:
    """Return whether a CSV with these columns is of perf_report: names of axes, then `NAME (UNIT)`."""
    named = [bool(_COLUMN.fullmatch(column)) for column in columns]
    return "case_id" not in columns and any(named) and not named[0]


def triton_runs(lines: Sequence[str], source: Path) -> list[Run]:
    """Return a run per row and line of the plot; the file has no spread and no machine.

    Raises UsageError if its unit is not one of time, or if a cell is not a number.
    """
    columns, *rows = csv.reader(lines)
    figures = {at: found for at, column in enumerate(columns) if (found := _COLUMN.fullmatch(column))}
    units = {found[2].strip() for found in figures.values()}
    if wrong := sorted(units - _SECONDS.keys()):
        raise UsageError(
            f"{source} has figures in {', '.join(wrong)!r}, which are no times; lbench compare reads "
            f"perf_report with ylabel {', '.join(_SECONDS)}"
        )
    runs = []
    for number, row in enumerate(filter(None, rows), start=2):
        if len(row) != len(columns):
            raise UsageError(f"{source}, line {number}: {len(row)} cells; allowed: {len(columns)}")
        axes = " ".join(
            f"{name}={_axis(value)}"
            for at, (name, value) in enumerate(zip(columns, row, strict=True))
            if at not in figures and name != "Diff"
        )
        for at, found in figures.items():
            if row[at] == "":  # a provider that was not measured there
                continue
            try:
                time_s = _SECONDS[found[2].strip()] * float(row[at])
                run = foreign_run(
                    f"{found[1]}/{axes}", found[1], time_s, ForeignPlace("cuda"), source, spread=(0.0, 0)
                )
            except ValueError as error:
                raise UsageError(f"{source}, line {number}: {error}") from None
            runs.append(run)
    return runs


def _axis(value: str) -> str:
    """Return a value of an axis: pandas writes whole numbers of a column of floats with zeros behind."""
    return value.rstrip("0").rstrip(".") if re.fullmatch(r"[0-9]+\.[0-9]*", value) else value
