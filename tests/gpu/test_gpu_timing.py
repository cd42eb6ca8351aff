"""Times on a real GPU: what they are compared with, and what is in them besides the call."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_bench.case import Case, Shape
from lightning_bench.machine import describe_machine
from lightning_bench.machine.gpu import cuda_gpu, gpu_limits
from lightning_bench.machine.mix import Mix
from lightning_bench.measure.device.call_watch import NoCallWatch
from lightning_bench.measure.device.clocks import NvmlClocks, make_clocks
from lightning_bench.measure.device.mix_stream import mix_gbps
from lightning_bench.measure.device.peaks import measure_ceilings
from lightning_bench.measure.device.stream_clock import GpuStreamClock, NoStreamClock, SampleClock
from lightning_bench.measure.device.timer import CudaTimer
from lightning_bench.measure.rounds import Task, sample_rounds, warm_up
from lightning_bench.measure.sampling import StopRule
from lightning_bench.record import ResultFile
from lightning_bench.record.samples import sidecar_path
from lightning_bench.run.plan import Plan, with_providers
from lightning_bench.run.progress import QuietWatcher
from lightning_bench.run.sweep import run_sweep
from lightning_bench.suite import Limits

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("default"),  # other libraries' warnings are not ours
]

RULE = StopRule(ci_percent=1.0, min_samples=20, max_samples=100, sample_limit_s=2.0)
MIXES = [Mix(1, 0), Mix(4, 1), Mix(3, 1), Mix(2, 1), Mix(7, 4), Mix(4, 3), Mix(1, 1), Mix(0, 1)]


def test_mixes_are_as_fast_as_a_copy_and_near_to_each_other() -> None:
    copy = measure_ceilings("cuda", "bf16").gbps
    found = {str(mix): mix_gbps(mix) for mix in MIXES}
    print(f"copy {copy:.0f} GB/s", {mix: f"{gbps:.0f}" for mix, gbps in found.items() if gbps})
    bandwidths = [gbps for gbps in found.values() if gbps is not None]
    assert len(bandwidths) == len(MIXES)
    assert min(bandwidths) > 0.97 * copy
    assert max(bandwidths) < 1.15 * min(bandwidths)
    again = mix_gbps(Mix(3, 1))
    assert again == pytest.approx(found["3:1"], rel=0.02)


def test_a_sample_of_no_work_takes_some_microseconds() -> None:
    timers = [CudaTimer(), CudaTimer()]
    found = [timer.empty_us() for timer in timers]
    print(f"empty_us {found[0]:.2f}, {found[1]:.2f}")
    assert all(0.5 < empty < 20 for empty in found)
    assert found[0] == pytest.approx(found[1], abs=1.0)
    assert timers[0].empty_us() == found[0]


def median(samples: list[float]) -> float:
    return float(np.median(samples))


def heavy() -> Callable[[], torch.Tensor]:
    """Return a call that keeps the multiprocessors busy for some milliseconds."""
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    return lambda: a @ a


def reading(mib: int) -> Callable[[], torch.Tensor]:
    """Return a call that reads so much memory."""
    x = torch.randn(mib * 2**18, device="cuda")
    return x.sum


def known(timer: CudaTimer) -> list[SampleClock]:
    return [clock for clock in timer.clocks() if clock is not None]


def test_the_clock_in_the_stream_is_that_of_nvml_under_load() -> None:
    limit = gpu_limits(cuda_gpu()).sm_clock_mhz
    assert limit is not None
    clock, sensors, call = GpuStreamClock(limit), NvmlClocks(), heavy()
    for number in range(5):
        clock.begin()
        for _ in range(100):
            call()
        clock.end()
        seen = [sensors.read().sm_clock_mhz]
        while not torch.cuda.current_stream().query():  # while the calls that were enqueued run
            seen.append(sensors.read().sm_clock_mhz)
        read = clock.read()
        assert read is not None
        print(f"stream {read.mhz:.0f} MHz, NVML {min(seen):.0f} to {max(seen):.0f}, {len(seen)} times")
        if number:  # the first calls are not of a GPU under load
            # Where power is short NVML reads 10 % more than the cycles that are counted.
            assert read.mhz == pytest.approx(median(seen), rel=0.15)
        assert read.mhz < 1.05 * limit


def test_a_clock_of_a_short_sample_is_steady() -> None:
    timer = CudaTimer()
    timer.sample(reading(1), 50, NoCallWatch())
    mhz = [clock.mhz for clock in known(timer)]
    print(f"{len(mhz)} clocks, {min(mhz):.0f} to {max(mhz):.0f} MHz, median {median(mhz):.0f}")
    assert len(mhz) == 50
    # A GPU that was idle may still raise its clock: from one sample to the next that is little.
    assert median([abs(b / a - 1) for a, b in itertools.pairwise(mhz)]) < 0.03


@pytest.mark.parametrize("mib", [1, 16, 256])
def test_reading_the_clock_does_not_change_a_sample(mib: int) -> None:
    marked, plain, call = CudaTimer(), CudaTimer(NoStreamClock()), reading(mib)
    times: dict[CudaTimer, list[float]] = {marked: [], plain: []}
    for _ in range(40):
        for timer, samples in times.items():
            samples += timer.sample(call, 5, NoCallWatch())
    assert known(marked)
    assert not known(plain)
    with_clock, without = median(times[marked]), median(times[plain])
    print(f"{mib} MiB: {1e3 * with_clock:.2f} us with the clock, {1e3 * without:.2f} without")
    # Events have a resolution: a hundredth of a few microseconds is below it.
    assert with_clock == pytest.approx(without, rel=0.01, abs=1e-4)


def test_an_empty_sample_is_as_long_with_the_clock() -> None:
    marked, plain = CudaTimer().empty_us(), CudaTimer(NoStreamClock()).empty_us()
    print(f"empty {marked:.2f} us with the clock, {plain:.2f} without")
    assert marked == pytest.approx(plain, abs=0.3)


def test_cycles_are_time_times_clock() -> None:
    timer, task = CudaTimer(), Task.of("heavy", heavy(), RULE)
    warm_up(task, timer, 1.0)
    sample_rounds([task], timer, make_clocks("cuda"), seed=0)
    assert task.sampler.median_mhz is not None
    expected = 1e3 * median(task.sampler.samples) * task.sampler.median_mhz
    assert task.sampler.median_cycles == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(("share", "all_throttled"), [(1.5, True), (0.1, False)])
def test_samples_below_the_threshold_are_dropped(share: float, all_throttled: bool) -> None:
    """No GPU runs at one and a half times its highest clock, and each runs at a tenth of it."""
    timer = CudaTimer(GpuStreamClock(gpu_limits(cuda_gpu()).sm_clock_mhz, share))
    task = Task.of("reading", reading(16), RULE)
    warm_up(task, timer, 1.0)
    sample_rounds([task], timer, make_clocks("cuda"), seed=0)
    sampler = task.sampler
    print(f"{len(sampler.samples)} samples, {sampler.throttled} throttled, {sampler.dropped} dropped")
    assert len(sampler.samples) >= RULE.min_samples
    if all_throttled:
        assert sampler.dropped == RULE.min_samples
        assert sampler.throttled == sampler.dropped + len(sampler.samples)
        assert (sampler.trouble() or "").startswith("the GPU was throttled in ")
    else:
        assert sampler.throttled == sampler.dropped == 0


def test_a_row_has_its_clock_and_its_cycles(tmp_path: Path) -> None:
    case = Case(Shape(4, 32, 2048, 128, 128, "bf16", "cuda"), "lightning2", "fwd")
    limits = Limits(time_limit_s=120, sample_limit_s=0.5, min_samples=10, max_samples=100)
    machine = describe_machine("cuda")
    plan = Plan("gpu", "speed", "lbench", limits, machine, "cuda", (case,), False)
    path = tmp_path / "speed.csv"
    with ResultFile(path) as out:
        (record,) = run_sweep(with_providers(plan), out, QuietWatcher()).records
    shown = (
        "reason",
        "ceiling_of",
        "ceiling_gbps",
        "floor_ratio",
        "empty_us",
        "sm_clock_mhz",
        "median_cycles",
    )
    print({name: getattr(record, name) for name in shown})
    assert record.status in ("ok", "unstable")
    assert record.ceiling_of == "3:1"
    assert record.empty_us is not None
    assert record.median_ms is not None
    assert record.sm_clock_mhz is not None
    assert record.throttled_samples is not None
    assert record.median_cycles == pytest.approx(1e3 * record.median_ms * record.sm_clock_mhz, rel=0.02)
    lines = [json.loads(line) for line in sidecar_path(path).read_text().splitlines()]
    assert len(lines) == record.processes, "one line per process"
    for kept in lines:
        assert len(kept["samples_mhz"]) == len(kept["samples_ms"])
