"""The JSON of NVIDIA's nvbench (`--json FILE`), version 1 of its file format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_bench.comparison.sides import Run
from lightning_bench.exchange.imports.foreign_run import ForeignPlace, foreign_run

_MAJOR = 1
# The median where the version has it; older ones have only the mean.
_TIMES = (
    "nv/cold/time/gpu/median",
    "nv/cold/time/gpu/mean",
    "nv/cold/time/cpu/median",
    "nv/cold/time/cpu/mean",
)


def is_nvbench(data: Any) -> bool:
    """Return whether parsed JSON is a file of nvbench."""
    return isinstance(data, dict) and "benchmarks" in data and "nvbench" in _version(data)


def nvbench_runs(data: Any, source: Path) -> list[Run]:
    """Return a run per state that was not skipped: the time of isolated launches, by CUDA events if it can.

    Raises KeyError, TypeError or ValueError for a file that is not as nvbench writes it.
    """
    version = _version(data)["json"]["major"]
    if version != _MAJOR:
        raise ValueError(f"version {version} of nvbench's JSON; allowed: {_MAJOR}")
    devices = {device["id"]: device["name"] for device in data["devices"] or []}
    runs = []
    for benchmark in data["benchmarks"] or []:
        for state in benchmark["states"] or []:
            if state["is_skipped"]:
                continue
            values = {summary["tag"]: _value(summary) for summary in state["summaries"] or []}
            time_tag = next((tag for tag in _TIMES if tag in values), None)
            if time_tag is None:
                continue
            axes = " ".join(f"{axis['name']}={axis['value']}" for axis in state["axis_values"] or [])
            device = "" if state["device"] is None else f"device{state['device']}"
            place = _place(state["device"], devices)
            spread_tag = f"{time_tag.rpartition('/')[0]}/stdev/relative"
            runs.append(
                foreign_run(
                    "/".join(filter(None, (benchmark["name"], axes, device))),
                    benchmark["name"],
                    values[time_tag],
                    place,
                    source,
                    spread=(values.get(spread_tag, 0.0), int(values.get("nv/cold/sample_size", 0))),
                )
            )
    return runs


def _version(data: Any) -> Any:
    meta = data.get("meta")
    version = meta.get("version") if isinstance(meta, dict) else None
    return version if isinstance(version, dict) else {}


def _place(number: Any, devices: dict[Any, str]) -> ForeignPlace:
    if number is None or number not in devices:
        return ForeignPlace("cpu")
    return ForeignPlace("cuda", str(devices[number]))


def _value(summary: Any) -> float:
    """Return the value of a summary, which nvbench writes as text; not a number if it has none."""
    found = {each["name"]: each["value"] for each in summary.get("data") or []}
    try:
        return float(found.get("value", "nan"))
    except ValueError:
        return float("nan")  # text, such as a file name
