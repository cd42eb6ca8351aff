"""Nsight Compute: its command line, its CSV, and the reasons why it gives none.

`ncu --csv --page raw` prints a header of column names, a row of their units, and one row per kernel launch.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence

from lightning_bench.profile.data import Counters, Kernel
from lightning_bench.profile.kernel_names import unqualified_name

# Section sets leave these out on some GPUs; they are asked for by name.
METRICS = (
    "dram__bytes_read.sum",
    "dram__bytes_write.sum",
    "lts__t_bytes.sum",
    "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active",
    "sass__inst_executed_register_spilling",
)

# To bytes and ms; the unit of a rate is the part before its "/".
_SCALES = {
    "Kbyte": 1e3,
    "Mbyte": 1e6,
    "Gbyte": 1e9,
    "Tbyte": 1e12,
    "s": 1e3,
    "second": 1e3,
    "us": 1e-3,
    "usecond": 1e-3,
    "ns": 1e-6,
    "nsecond": 1e-6,
}
_SECTOR_BYTES = 32
_TENSOR = re.compile(r"sm__(inst_executed_)?pipe_tensor\w*\.avg\.pct_of_peak_sustained_(active|elapsed)")
_STALL = re.compile(r"smsp__average_warps_issue_stalled_(\w+?)_per_issue_active\.ratio")
# Listed among the stalls, but not a stall: the warp issued.
_NO_STALL = "selected"


def command(ncu: str, log: str, target: Sequence[str], *, metrics: Sequence[str] = METRICS) -> list[str]:
    """Return the command that counts the kernels which `target` runs between cudaProfilerStart and Stop.

    Clocks are not changed, and child processes of the target are profiled too: a Python may be a launcher.
    """
    named = ["--metrics", ",".join(metrics)] if metrics else []
    return [
        *(ncu, "--clock-control", "none", "--set", "full", *named, "--profile-from-start", "off"),
        *("--target-processes", "all", "--page", "raw", "--csv", "--print-units", "base"),
        *("--log-file", log, *target),
    ]


def parse(text: str) -> tuple[Counters, ...]:
    """Parse what ncu printed: one entry per launch, in order. Raise ValueError if it holds no table."""
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), None)
    if start is None:
        raise ValueError("Nsight Compute printed no table")
    body = [line for line in lines[start:] if line.startswith('"')]
    rows = list(csv.reader(io.StringIO("\n".join(body))))
    if len(rows) < 3 or "Kernel Name" not in rows[0]:
        raise ValueError("the table of Nsight Compute has no kernel")
    names, units = rows[0], rows[1]
    return tuple(
        _counters(dict(zip(names, row, strict=False)), dict(zip(names, units, strict=False)))
        for row in rows[2:]
        if len(row) == len(names)
    )


def trouble(log: str, returncode: int | None) -> str:
    """Return why ncu gave no counters, as a sentence; `returncode` is None if it was killed at the limit."""
    if "ERR_NVGPUCTRPERM" in log:
        return (
            "the driver does not permit this user to read GPU counters (ERR_NVGPUCTRPERM): run as root, or "
            "load the nvidia module with NVreg_RestrictProfilingToAdminUsers=0"
        )
    if returncode is None:
        return "Nsight Compute was not done within the time limit"
    errors = [line.removeprefix("==ERROR==").strip() for line in log.splitlines() if "==ERROR==" in line]
    if errors:
        return f"Nsight Compute: {errors[0]}"
    if "No kernels were profiled" in log:
        return "Nsight Compute saw no kernel in the call"
    return f"Nsight Compute ended with exit code {returncode} and no table"


def join(
    kernels: Sequence[Kernel], counters: Sequence[Counters]
) -> tuple[tuple[Kernel, ...], tuple[Counters, ...], str]:
    """Join counters with the kernels of the same call: (kernels, counters left over, a note or "").

    ncu lists no copies and fills, and leaves out namespaces. Both lists are in the order of launch; if the
    names differ, as after an autotuner chose another kernel, nothing is joined.
    """
    launches = [i for i, kernel in enumerate(kernels) if kernel.kind == "kernel"]
    ours = [unqualified_name(kernels[i].name) for i in launches]
    theirs = [unqualified_name(entry.kernel) for entry in counters]
    if ours != theirs:
        note = (
            f"Nsight Compute saw other launches ({len(theirs)}) than torch.profiler ({len(ours)}): its "
            "figures are listed separately"
        )
        return tuple(kernels), tuple(counters), note
    joined = list(kernels)
    for i, entry in zip(launches, counters, strict=True):
        joined[i] = kernels[i].model_copy(update={"counters": entry, "gbps": _gbps(entry)})
    return tuple(joined), (), ""


def _gbps(counters: Counters) -> float | None:
    if counters.dram_bytes is None or not counters.time_ms:
        return None
    return counters.dram_bytes / counters.time_ms / 1e6


def _counters(row: Mapping[str, str], units: Mapping[str, str]) -> Counters:
    def figure(*names: str) -> float | None:
        """Return the first of the metrics that has a number, in bytes, ms, per cent or as it is."""
        for name in names:
            value = _number(row.get(name, ""))
            unit = units.get(name, "")
            if value is not None:
                return value * _SCALES.get(unit.split("/")[0], 1.0)
        return None

    sectors = figure("lts__t_sectors.sum")
    registers = figure("launch__registers_per_thread")
    local = [figure(f"sass__inst_executed_local_{what}") for what in ("loads", "stores")]
    return Counters(
        kernel=row["Kernel Name"],
        time_ms=figure("gpu__time_duration.sum", "gpu__time_duration.avg"),
        dram_read_bytes=figure("dram__bytes_read.sum"),
        dram_write_bytes=figure("dram__bytes_write.sum"),
        l2_bytes=figure("lts__t_bytes.sum") or (None if sectors is None else sectors * _SECTOR_BYTES),
        l2_hit_percent=figure("lts__t_sector_hit_rate.pct"),
        dram_percent=figure(
            "gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed",
            "dram__throughput.avg.pct_of_peak_sustained_elapsed",
        ),
        tensor_percent=_tensor(row),
        occupancy_percent=figure("sm__warps_active.avg.pct_of_peak_sustained_active"),
        registers=None if registers is None else round(registers),
        spill_instructions=figure("sass__inst_executed_register_spilling"),
        local_instructions=None if None in local else sum(count for count in local if count is not None),
        waves=figure("launch__waves_per_multiprocessor"),
        stalls=_stalls(row),
    )


def _tensor(row: Mapping[str, str]) -> float | None:
    """Return the active cycles of the busiest tensor pipe if ncu has them, else its instructions."""
    found = {name: _number(cell) for name, cell in row.items() if _TENSOR.fullmatch(name)}
    known = {name: value for name, value in found.items() if value is not None}
    cycles = [value for name, value in known.items() if "cycles_active" in name]
    return max(cycles or known.values(), default=None)


def _stalls(row: Mapping[str, str]) -> dict[str, float]:
    waited: dict[str, float] = {}
    for name, cell in row.items():
        match, value = _STALL.fullmatch(name), _number(cell)
        if match and value is not None and not match[1].endswith("not_issued"):
            waited[match[1]] = value
    total = sum(waited.values())
    ordered = sorted(waited.items(), key=lambda item: -item[1])
    return {name: value / total for name, value in ordered if name != _NO_STALL and value > 0}


def _number(cell: str) -> float | None:
    try:
        return float(cell.replace(",", ""))
    except ValueError:  # "n/a", "(!) nan" and the like
        return None
