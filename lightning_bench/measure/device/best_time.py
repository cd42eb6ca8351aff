"""The shortest time of a call: what a peak rate follows from."""

from __future__ import annotations

import time

import torch

from lightning_bench.case import Device
from lightning_bench.measure.device.timer import TimedCall


def best_ms(fn: TimedCall, repeats: int, device: Device) -> float:
    """Return the shortest of `repeats` times in ms, after one call that is not timed.

    On a GPU another call is enqueued ahead of each that is timed, so that the device does not wait for it.
    """
    fn()
    times: list[float] = []
    for _ in range(repeats):
        if device == "cuda":
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            fn()
            start.record()
            fn()
            end.record()
            end.synchronize()
            times.append(float(start.elapsed_time(end)))
        else:
            begin = time.perf_counter()
            fn()
            times.append((time.perf_counter() - begin) * 1e3)
    return min(times)
