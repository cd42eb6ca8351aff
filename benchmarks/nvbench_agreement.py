"""Our median against NVIDIA nvbench's cold measurement, on one kernel at three sizes.

Run on a GPU with cuda-bench installed, in the repository root:

    python benchmarks/nvbench_agreement.py results/h200/nvbench-agreement.csv

One process measures the same zero-argument call twice: with ``CudaTimer`` as a sweep does, and with
``cuda.bench`` (blocking kernel, L2 flush, CUDA events; package cuda-bench). Both hold their samples. The
CSV has a row a size: both medians in ms, their 95 % intervals, and the ratio. Exit code 1 where any ratio
is further than 3 % from 1.
"""

from __future__ import annotations

import json
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from rows import out_path, write_rows

from lightning_bench.case import Shape
from lightning_bench.measure.calls import direction_call
from lightning_bench.measure.device.clocks import NoClocks
from lightning_bench.measure.device.timer import CudaTimer
from lightning_bench.measure.inputs import InputSet
from lightning_bench.measure.rounds import Task, run_rounds, warm_up
from lightning_bench.measure.sampling import StopRule, median_interval
from lightning_bench.providers import get_provider

PROVIDER = "lightning2"
SIZES = (2048, 8192, 32768)
AGREEMENT_PERCENT = 3.0
# As long under load as nvbench measures: the clock of a busy GPU settles over seconds.
RULE = StopRule(ci_percent=0.01, min_samples=100, max_samples=1000, sample_limit_s=10.0)


def _call(seq_len: int):
    provider = get_provider(PROVIDER)
    provider.load()
    inputs = InputSet(Shape(4, 32, seq_len, 128, 128, "bf16", "cuda"), seed=0)
    return direction_call(provider, inputs, "fwd").fn


def ours(fn) -> list[float]:
    """Return samples in ms as a sweep takes them."""
    timer, task = CudaTimer(), Task.of("case", fn, RULE)
    warm_up(task, timer, 1.0)
    run_rounds([task], timer, NoClocks(), seed=0)
    return task.sampler.samples


def nvbench(calls: dict[int, object]) -> dict[int, list[float]]:
    """Return samples in ms of nvbench's cold measurement."""
    from cuda import bench
    from cuda.bench.results import BenchmarkResult

    def forward(state) -> None:
        fn = calls[state.get_int64("seq_len")]
        handle = state.get_stream().addressof()
        stream = torch.cuda.ExternalStream(handle)

        def launch(_launch) -> None:
            with torch.cuda.stream(stream):
                fn()

        state.exec(launch, batched=False)

    bench.register(forward).add_int64_axis("seq_len", list(calls)).set_min_samples(100)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "nvbench.json"
        bench.run_all_benchmarks(["nvbench", "--devices", "0", "--jsonbin", str(path)])
        result = BenchmarkResult.from_json(path)
        samples = {}
        for state in result["forward"]:
            seconds = state.samples
            if seconds is None:
                raise SystemExit(f"nvbench kept no samples: {json.dumps(list(state.summaries))}")
            samples[int(state.point["seq_len"])] = [1e3 * s for s in seconds]
    return samples


def main() -> None:
    """Measure, write the CSV, judge."""
    out = out_path(__doc__)
    calls = {n: _call(n) for n in SIZES}
    mine = {n: ours(fn) for n, fn in calls.items()}
    theirs = nvbench(calls)
    again = {n: ours(fn) for n, fn in calls.items()}
    rows = []
    for n in SIZES:
        median, peer = float(np.median(mine[n] + again[n])), float(np.median(theirs[n]))
        low, high = median_interval(mine[n] + again[n])
        peer_low, peer_high = median_interval(theirs[n])
        rows.append(
            {
                "provider": PROVIDER,
                "direction": "fwd",
                "batch": 4,
                "heads": 32,
                "seq_len": n,
                "head_dim": 128,
                "dtype": "bf16",
                "lbench_median_ms": f"{median:.6f}",
                "lbench_ci_low_ms": f"{low:.6f}",
                "lbench_ci_high_ms": f"{high:.6f}",
                "lbench_samples": len(mine[n] + again[n]),
                "nvbench_median_ms": f"{peer:.6f}",
                "nvbench_ci_low_ms": f"{peer_low:.6f}",
                "nvbench_ci_high_ms": f"{peer_high:.6f}",
                "nvbench_samples": len(theirs[n]),
                "ratio": f"{median / peer:.4f}",
                "cuda_bench": version("cuda-bench"),
                "device_name": torch.cuda.get_device_name(0),
                "torch": torch.__version__,
            }
        )
    write_rows(out, rows)
    for row in rows:
        print(row["seq_len"], row["lbench_median_ms"], row["nvbench_median_ms"], row["ratio"])
    if any(abs(float(row["ratio"]) - 1) > AGREEMENT_PERCENT / 100 for row in rows):
        raise SystemExit(f"further apart than {AGREEMENT_PERCENT} %")


if __name__ == "__main__":
    main()
