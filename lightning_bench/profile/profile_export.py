"""Profiles in files: JSON with everything, and three CSVs with one row per call, kernel and tensor."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lightning_bench.errors import UsageError
from lightning_bench.profile.data import Profile
from lightning_bench.record.codec import csv_text, read_cells, replace_file
from lightning_bench.record.discover import file_name
from lightning_bench.record.row import VARIANT

_KEY = ("case_id", "machine_id")
_SHAPE = (
    "provider",
    "direction",
    "dtype",
    "batch",
    "heads",
    "seq_len",
    "head_dim",
    "value_dim",
    "device",
    *VARIANT,
)
_MACHINE = ("device_name", "driver", "torch", "triton", "python", "harness_commit")
_COUNTERS = (
    "dram_read_bytes",
    "dram_write_bytes",
    "l2_bytes",
    "l2_hit_percent",
    "dram_percent",
    "tensor_percent",
    "spill_instructions",
    "local_instructions",
    "waves",
)


def as_data(profile: Profile) -> dict[str, Any]:
    """Return the profile as in its JSON, with the figures that are derived from others."""
    derived = {
        "compile_s": profile.timing.compile_s,
        "host_share": profile.timing.host_share,
        "dram_bytes": profile.dram_bytes,
        "traffic_ratio": profile.traffic_ratio,
        "bandwidth_share": profile.roofline.bandwidth_share,
        "rate_share": profile.roofline.rate_share,
    }
    return {**profile.model_dump(mode="json"), "derived": derived}


def write(profiles: Iterable[Profile], folder: Path) -> list[Path]:
    """Write each profile's JSON, and its rows into calls.csv, kernels.csv and tensors.csv of the folder.

    Rows of the same case on the same machine are replaced, others stay. Raises UsageError if a CSV of
    another kind is in the way, LbenchError if a file cannot be written.
    """
    profiles = list(profiles)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {folder} is a file: give the name of a folder")
    written = []
    for profile in profiles:
        path = folder / f"{file_name(profile.case_id.replace('/', '_'))}.json"
        replace_file(path, json.dumps(as_data(profile), indent=1, ensure_ascii=False) + "\n")
        written.append(path)
    for name, rows_of in (("calls", call_rows), ("kernels", kernel_rows), ("tensors", tensor_rows)):
        path = folder / f"{name}.csv"
        _merge(path, [row for profile in profiles for row in rows_of(profile)], profiles)
        written.append(path)
    return written


def call_rows(profile: Profile) -> list[dict[str, Any]]:
    """Return one row: the call's times, its place on the roofline, its memory, its readings."""
    t, r, m = profile.timing, profile.roofline, profile.memory
    machine = profile.machine
    return [
        {
            **_key(profile),
            **{name: getattr(profile, name) for name in _SHAPE},
            "provider_version": profile.provider_version,
            "provider_config": profile.provider_config,
            **t.model_dump(exclude={"first_call_s", "second_call_s", "triton_cache", "compiled"}),
            "host_share": t.host_share,
            "first_call_s": t.first_call_s,
            "compile_s": t.compile_s,
            "triton_cache": t.triton_cache,
            "kernels": len(profile.kernels),
            **r.model_dump(exclude={"impossible"}),
            "dram_bytes": profile.dram_bytes,
            "traffic_ratio": profile.traffic_ratio,
            **m.model_dump(exclude={"allocations", "saved"}),
            "readings": " ".join(reading.text for reading in profile.readings),
            "notes": "; ".join(profile.notes),
            **{name: machine.get(name, "") for name in _MACHINE},
            "time_utc": profile.time_utc,
        }
    ]


def kernel_rows(profile: Profile) -> list[dict[str, Any]]:
    """Return one row per launch, in order, then those that only ncu saw; on a CPU one per operator."""
    rows = []
    for index, kernel in enumerate(profile.kernels):
        counted = kernel.counters
        rows.append(
            {
                **_key(profile),
                "index": index,
                **kernel.model_dump(exclude={"grid", "block", "counters"}),
                "grid": _by(kernel.grid),
                "block": _by(kernel.block),
                **_counter_cells(counted),
            }
        )
    blank = dict.fromkeys(rows[0], None) if rows else {}
    for index, counted in enumerate(profile.counters, start=len(rows)):
        own = {"index": index, "name": counted.kernel, "kind": "kernel", "registers": counted.registers}
        rows.append({**blank, **_key(profile), **own, **_counter_cells(counted)})
    return rows


def tensor_rows(profile: Profile) -> list[dict[str, Any]]:
    """Return one row per tensor that the call allocated, then one per tensor saved for backward."""
    rows = [
        {
            **_key(profile),
            "what": "allocated",
            "index": index,
            "size_bytes": tensor.size_bytes,
            "made_by": tensor.made_by,
            "freed": tensor.freed,
            "shape": "",
            "dtype": "",
            "same_as": "",
        }
        for index, tensor in enumerate(profile.memory.allocations)
    ]
    rows += [
        {
            **_key(profile),
            "what": "saved",
            "index": index,
            "size_bytes": tensor.size_bytes,
            "made_by": "",
            "freed": "",
            "shape": _by(tensor.shape),
            "dtype": tensor.dtype,
            "same_as": tensor.same_as,
        }
        for index, tensor in enumerate(profile.memory.saved)
    ]
    return rows


def _counter_cells(counters: Any) -> dict[str, Any]:
    cells = {name: getattr(counters, name, None) for name in _COUNTERS}
    stalls = getattr(counters, "stalls", {})
    text = " ".join(f"{name}={share:.3f}" for name, share in list(stalls.items())[:5])
    return {"ncu_time_ms": getattr(counters, "time_ms", None), **cells, "stalls": text}


def _key(profile: Profile) -> dict[str, Any]:
    return {"case_id": profile.case_id, "machine_id": profile.machine.get("machine_id", "")}


def _by(sizes: Sequence[int] | None) -> str:
    return "" if sizes is None else "x".join(map(str, sizes))


def _merge(path: Path, rows: list[dict[str, Any]], profiles: Sequence[Profile]) -> None:
    """Replace the rows of the same cases in the file; the new rows come last."""
    replaced = {tuple(_key(profile).values()) for profile in profiles}
    old = [row for row in _read(path) if tuple(row[name] for name in _KEY) not in replaced]
    columns = list(dict.fromkeys([*(rows or [{}])[0], *(old or [{}])[0]]))
    if columns:
        replace_file(path, csv_text(columns, [*old, *rows]))


def _read(path: Path) -> list[dict[str, str]]:
    rows = read_cells(path, advice="; give another --out")
    if rows and not set(_KEY) <= set(rows[0]):
        raise UsageError(f"{path} is not a file of `lbench profile`; give another --out")
    return rows
