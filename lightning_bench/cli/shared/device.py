"""The device that a command works on: `cpu`, `cuda`, or one of several GPUs."""

from __future__ import annotations

import re

from lightning_bench.case import Device
from lightning_bench.errors import UsageError


def resolve_device(wanted: str | None) -> Device:
    """Return the device named by `--device`, else the machine's own.

    `cuda:1` is `cuda`, which then is GPU 1 in this process and its workers. Raise UsageError for another name
    and for a GPU that is not here.
    """
    from lightning_bench.machine import detect_device
    from lightning_bench.machine.gpu import use_gpu

    if wanted is None:
        return detect_device()
    device, number = parse_device(wanted)
    if number is not None:
        use_gpu(number)
    return device


def parse_device(text: str) -> tuple[Device, int | None]:
    """Return the kind of device and the number of the GPU, None if no number is given; UsageError."""
    match = re.fullmatch(r"(cpu|cuda)|cuda:([0-9]{1,4})", text)
    if match is None:
        raise UsageError(f"--device {text!r} is not known; allowed: cuda, cuda:N for GPU N, cpu")
    if match[1] == "cpu":
        return "cpu", None
    return "cuda", None if match[2] is None else int(match[2])


def threads_of(device: Device) -> int | None:
    """Return how many threads torch uses, which a CPU's ceilings depend on; None on a GPU."""
    if device == "cuda":
        return None
    import torch

    return torch.get_num_threads()
