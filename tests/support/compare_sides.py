"""Result files for tests of `lbench compare`: rows and samples as sweeps write them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lightning_bench.record import Record, ResultFile

COMMON: dict[str, Any] = {
    "suite": "story",
    "metric": "speed",
    "protocol": "lbench",
    "status": "ok",
    "provider": "lightning2",
    "family": "linear_decay",
    "provider_version": "0.1.0+aaaa",
    "direction": "fwd",
    "dtype": "bf16",
    "batch": 1,
    "heads": 2,
    "seq_len": 64,
    "head_dim": 16,
    "value_dim": 16,
    "device": "cuda",
    "device_name": "GPU",
    "harness_version": "0.1.0",
    "machine_id": "abc",
    "time_utc": "2026-01-01T00:00:00+00:00",
}


def row(case: str = "lightning2/fwd/b1", **changes: Any) -> Record:
    """Return a row of one case; its provider and direction are those of its id."""
    provider, direction, _ = case.split("/")
    return Record(**COMMON | {"case_id": case, "provider": provider, "direction": direction} | changes)


def samples_of(ms: float, rng: np.random.Generator, *, spread: float = 0.01, count: int = 30) -> list[float]:
    return [float(one) for one in ms * np.exp(rng.normal(0, spread, count))]


def write(
    path: Path,
    cases: dict[str, float | Record],
    *,
    passes: int = 0,
    noise: float = 0.004,
    seed: int = 0,
    **changes: Any,
) -> Path:
    """Write a CSV of cases: times in ms, or whole rows; with `passes`, that many tagged rows each."""
    rng = np.random.default_rng(seed)
    with ResultFile(path) as file:
        for number in range(max(1, passes)):
            tag = {"pair": f"p{number}"} if passes else {}
            for case, what in cases.items():
                if isinstance(what, Record):
                    if number == 0:
                        file.append(what)
                    continue
                times = samples_of(what * float(np.exp(rng.normal(0, noise))), rng)
                append(file, row(case, **changes), times, **tag)
    return path


def append(file: ResultFile, record: Record, times: Sequence[float], **more: Any) -> None:
    """One measured row and its samples."""
    from dataclasses import replace

    file.append_samples(record, {"samples_ms": list(times), "turns": [5] * (len(times) // 5), **more})
    file.append(replace(record, median_ms=float(np.median(times)), samples=len(times)))
