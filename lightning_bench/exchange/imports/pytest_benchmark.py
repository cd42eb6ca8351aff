"""The JSON of pytest-benchmark (`--benchmark-json FILE`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_bench.comparison.sides import Run
from lightning_bench.exchange.imports.foreign_run import ForeignPlace, foreign_run


def is_pytest_benchmark(data: Any) -> bool:
    """Return whether parsed JSON is a file of pytest-benchmark."""
    return isinstance(data, dict) and {"benchmarks", "machine_info", "version"} <= data.keys()


def pytest_benchmark_runs(data: Any, source: Path) -> list[Run]:
    """Return a run per test: the median of its rounds.

    Raises KeyError, TypeError or ValueError for a file that is not as pytest-benchmark writes it.
    """
    machine = data["machine_info"]
    cpu = machine.get("cpu") or {}
    place = ForeignPlace(
        "cpu",
        str(cpu.get("brand_raw") or cpu.get("brand") or machine.get("machine", "")),
        str(machine.get("python_version", "")),
        str(data.get("datetime", "")),
    )
    runs = []
    for benchmark in data["benchmarks"]:
        stats = benchmark["stats"]
        mean = float(stats["mean"])
        runs.append(
            foreign_run(
                benchmark["fullname"],
                benchmark["fullname"].partition("[")[0],
                float(stats["median"]),
                place,
                source,
                spread=(float(stats["stddev"]) / mean if mean else 0.0, int(stats["rounds"])),
            )
        )
    return runs
