"""What an H200's profilers print, for tests without one: a Kineto trace, Nsight Compute's CSV, Proton's tree.

The names of fields, columns and units are those of torch 2.11, Nsight Compute 2025 (`--csv --page raw`) and
triton 3.6; the figures are made up so that results can be told by hand.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from lightning_bench.profile.data import Kernel, Memory, Profile, Roofline, Timing

HOPPER = "linear_attention_kernel"
REDUCE = (
    "void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float, at::native::func_wrapper_t<float> > >"
    "(at::native::ReduceOp<float>)"
)
FLUSH = "void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<char> >(int, char*)"
TID, PID = 4242, 4200


class KinetoTrace:
    """Builds the list `traceEvents` of calls with a flush before each, times in µs."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = [
            {"ph": "M", "name": "process_name", "ts": 0, "pid": PID, "tid": 0, "args": {"name": "python"}}
        ]
        self.now = 1000.0
        self._correlation = 10

    def call(self, kernels: Sequence[tuple[str, float]], *, gap_us: float = 2.0) -> None:
        """Add a call that launches these kernels (name, µs) in turn, and the wait for it."""
        self._launched(FLUSH, self.now, self.now + 5, 60.0, "kernel")
        begin = self.now + 100
        start = begin + 12
        for index, (name, us) in enumerate(kernels):
            cat = "gpu_memset" if name.startswith("Memset") else "kernel"
            self._launched(name, begin + 2 * index + 1, start, us, cat)
            start += us + gap_us
        self._span("user_annotation", "lbench.call", begin, 40.0)
        self._span("user_annotation", "lbench.wait", begin + 41, start - begin)
        self.now = start + 200

    def operator(self, name: str, begin: float, us: float) -> None:
        """Add an operator on the CPU."""
        self._span("cpu_op", name, begin, us)

    def memory(self, at: float, size: int, address: int, *, device: int = 1) -> None:
        """Add an allocation, or with a negative size the end of one."""
        args = {"Total Reserved": 0, "Total Allocated": 0, "Bytes": size, "Device Id": 0, "Addr": address}
        self.events.append(
            {
                "ph": "i",
                "cat": "cpu_instant_event",
                "s": "t",
                "name": "[memory]",
                "pid": PID,
                "tid": TID,
                "ts": at,
                "args": {**args, "Device Type": device, "Ev Idx": len(self.events)},
            }
        )

    def _span(self, cat: str, name: str, begin: float, us: float, args: Any = None) -> None:
        self.events.append(
            {
                "ph": "X",
                "cat": cat,
                "name": name,
                "pid": PID,
                "tid": TID,
                "ts": begin,
                "dur": us,
                "args": args or {"External id": len(self.events)},
            }
        )

    def _launched(self, name: str, launch: float, start: float, us: float, cat: str) -> None:
        self._correlation += 1
        driver = name == HOPPER
        runtime = ("cuda_driver", "cuLaunchKernelEx") if driver else ("cuda_runtime", "cudaLaunchKernel")
        self._span(*runtime, launch, 1.5, {"External id": 3, "cbid": 652, "correlation": self._correlation})
        args: dict[str, Any] = {"device": 0, "context": 1, "stream": 7, "correlation": self._correlation}
        if cat == "kernel":
            args |= {
                "queued": 0,
                "registers per thread": 168,
                "shared memory": 215384,
                "blocks per SM": 4.0,
                "warps per SM": 48.0,
                "grid": [528, 1, 1],
                "block": [384, 1, 1],
                "est. achieved occupancy %": 0,
            }
        self._span(cat, name, start, us, args)
        self.events[-1] |= {"pid": 0, "tid": 7}


IDENTITY = {
    "ID": "0",
    "Process ID": "77",
    "Process Name": "python3.12",
    "Host Name": "127.0.0.1",
    "Kernel Name": HOPPER,
    "Context": "1",
    "Stream": "7",
    "Block Size": "(384, 1, 1)",
    "Grid Size": "(528, 1, 1)",
    "Device": "0",
    "CC": "9.0",
}
# column: (unit, cell)
METRICS = {
    "dram__bytes_read.sum": ("byte", "805,306,368"),
    "dram__bytes_write.sum": ("byte", "268,435,456"),
    "gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed": ("%", "78.50"),
    "gpu__time_duration.sum": ("ns", "286,000"),
    "launch__registers_per_thread": ("register/thread", "168"),
    "launch__waves_per_multiprocessor": ("", "2.25"),
    "lts__t_bytes.sum": ("byte", "1,610,612,736"),
    "lts__t_sector_hit_rate.pct": ("%", "33.25"),
    "sass__inst_executed_local_loads": ("inst", "0"),
    "sass__inst_executed_local_stores": ("inst", "0"),
    "sass__inst_executed_register_spilling": ("inst", "0"),
    "sm__inst_executed_pipe_tensor.avg.pct_of_peak_sustained_active": ("%", "7.5"),
    "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active": ("%", "41.25"),
    "sm__warps_active.avg.pct_of_peak_sustained_active": ("%", "18.52"),
    "smsp__average_warps_issue_stalled_barrier_per_issue_active.ratio": ("inst", "1.0"),
    "smsp__average_warps_issue_stalled_gmma_per_issue_active.ratio": ("inst", "4.0"),
    "smsp__average_warps_issue_stalled_long_scoreboard_per_issue_active.ratio": ("inst", "2.0"),
    "smsp__average_warps_issue_stalled_long_scoreboard_not_issued_per_issue_active.ratio": ("inst", "1.9"),
    "smsp__average_warps_issue_stalled_selected_per_issue_active.ratio": ("inst", "1.0"),
}


def ncu_csv(*launches: dict[str, str], units: dict[str, str] | None = None) -> str:
    """Return what `ncu --csv --page raw` writes for launches, each given by the cells that differ."""
    names = [*IDENTITY, *METRICS]
    given = units or {}
    head = dict.fromkeys(IDENTITY, "") | {name: unit for name, (unit, _) in METRICS.items()} | given
    usual = IDENTITY | {name: cell for name, (_, cell) in METRICS.items()}
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerow(names)
    writer.writerow([head[name] for name in names])
    for index, launch in enumerate(launches):
        row = usual | {"ID": str(index)} | launch
        writer.writerow([row[name] for name in names])
    return (
        "==PROF== Connected to process 77 (/usr/bin/python3.12)\n"
        '==PROF== Profiling "linear_attention_kernel" - 0: 0%....50%....100% - 46 passes\n'
        "==PROF== Disconnected from process 77\n" + text.getvalue()
    )


PROTON = [
    {
        "frame": {"name": "ROOT", "type": "function"},
        "metrics": {},
        "children": [
            {
                "frame": {"name": HOPPER, "type": "function"},
                "metrics": {"count": 5, "device_id": "0", "device_type": "CUDA", "time (ns)": 1430000},
                "children": [],
            },
            {
                "frame": {"name": "scope", "type": "function"},
                "metrics": {},
                "children": [
                    {"frame": {"name": REDUCE}, "metrics": {"count": 5, "time (ns)": 50000}, "children": []}
                ],
            },
        ],
    },
    {"CUDA": {"0": {"arch": "90", "bus_width": 6144, "clock_rate": 1980000, "num_sms": 132}}},
]


def gpu_profile(**changes: Any) -> Profile:
    """lightning2 forward on an H200 at the papers' shape, n = 8192; 1024 MiB by the model."""
    figures: dict[str, Any] = {
        "case_id": "lightning2/fwd/b4-h32-n8192-d128-e128-bf16-cuda",
        "provider": "lightning2",
        "label": "Lightning Attention-2 (ours)",
        "family": "linear_decay",
        "provider_version": "0.1.0+5eb46d16",
        "provider_config": "path=hopper block=64",
        "direction": "fwd",
        "dtype": "bf16",
        "batch": 4,
        "heads": 32,
        "seq_len": 8192,
        "head_dim": 128,
        "value_dim": 128,
        "device": "cuda",
        "processors": 132,
        "threads": 16,
        "calls": 5,
        "timing": timing(),
        "kernels": (kernel(HOPPER, 0.284),),
        "memory": Memory(
            extra_mib=256.0, ideal_mib=256.0, saved_mib=None, peak_mib=1024.0, reserved_mib=1100.0
        ),
        "roofline": roofline(0.286),
        "machine": {"device_name": "NVIDIA H200", "machine_id": "7d2c82671ba4"},
        "time_utc": "2026-11-21T12:00:00+00:00",
    }
    return Profile(**(figures | changes))


def timing(**changes: Any) -> Timing:
    usual: dict[str, Any] = {
        "device_ms": 0.286,
        "call_ms": 0.33,
        "samples": 40,
        "kernels_ms": 0.284,
        "between_ms": 0.0,
        "enqueue_ms": 0.04,
        "first_call_s": 2.06,
        "second_call_s": 0.01,
    }
    return Timing(**(usual | changes))


def kernel(name: str, time_ms: float, share: float = 1.0, **changes: Any) -> Kernel:
    usual: dict[str, Any] = {
        "kind": "kernel",
        "grid": (528, 1, 1),
        "block": (384, 1, 1),
        "registers": 168,
        "shared_bytes": 215384,
        "occupancy_percent": 37.0,
    }
    return Kernel(name=name, time_ms=time_ms, share=share, **(usual | changes))


def roofline(device_ms: float, *, traffic: float = 2.0**30, flops: float = 6.87e10) -> Roofline:
    """With ceilings of 4233 GB/s and 796 TFLOP/s."""
    floor = max(traffic / 4233e6, flops / 796e9)
    return Roofline(
        model_flops=flops,
        model_bytes=traffic,
        gbps=traffic / device_ms / 1e6,
        tflops=flops / device_ms / 1e9,
        floor_ms=floor,
        floor_ratio=device_ms / floor,
        bound_by="bytes" if floor == traffic / 4233e6 else "flops",
        ceiling_gbps=4233.0,
        ceiling_tflops=796.0,
        ceilings_from="measured in this run",
    )
