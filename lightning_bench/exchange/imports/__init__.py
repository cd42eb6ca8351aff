"""Files of other tools as a side of a comparison: one module per format, each from a file to runs."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from lightning_bench.comparison.sides import Run, Side, read_side
from lightning_bench.errors import UsageError
from lightning_bench.exchange.imports.nvbench import is_nvbench, nvbench_runs
from lightning_bench.exchange.imports.pytest_benchmark import is_pytest_benchmark, pytest_benchmark_runs
from lightning_bench.exchange.imports.triton_perf import is_perf_report, triton_runs
from lightning_bench.record.codec import read_regular


def read_any_side(path: Path) -> Side:
    """Return the rows of a CSV or folder of lbench, or of a file that another tool wrote.

    Read are the JSON of nvbench and of pytest-benchmark, and the CSV of triton's perf_report. Raises
    UsageError for a path that does not exist, and for a file that is none of these or is damaged.
    """
    if path.is_dir():
        return read_side(path)
    if path.suffix == ".json":
        return _side(path, _json_runs(path))
    if path.is_file():
        lines = read_regular(path).decode("utf-8-sig", errors="replace").splitlines()
        rows = list(csv.reader(lines[:1]))
        if rows and is_perf_report(rows[0]):
            return _side(path, triton_runs(lines, path))
    return read_side(path)


def _json_runs(path: Path) -> list[Run]:
    try:
        data = json.loads(read_regular(path))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is no JSON: {error}") from None
    try:
        if is_nvbench(data):
            return nvbench_runs(data, path)
        if is_pytest_benchmark(data):
            return pytest_benchmark_runs(data, path)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(
            f"{path} is damaged, or of a version that is not known here: {_fault(error)}"
        ) from None
    raise UsageError(
        f"{path} is of no tool that is read here; allowed: --json of nvbench, --benchmark-json of "
        "pytest-benchmark"
    )


def _fault(error: Exception) -> str:
    return f"it lacks {error}" if isinstance(error, KeyError) else str(error)


def _side(path: Path, runs: list[Run]) -> Side:
    return Side(str(path), runs, [] if runs else [f"{path} has no time"])
