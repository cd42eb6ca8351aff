"""Which device a command speaks of."""

from __future__ import annotations

from lightning_bench.case import DEVICES, Device
from lightning_bench.errors import UsageError


def resolve_device(wanted: str | None) -> Device:
    """The device named on the command line or by a suite, or the machine's own."""
    from lightning_bench.machine import detect_device

    if wanted is None:
        return detect_device()
    if wanted not in DEVICES:
        raise UsageError(f"--device {wanted!r} is not known; allowed: {', '.join(DEVICES)}")
    return wanted


def threads_of(device: Device) -> int | None:
    """Threads that torch uses, on which a CPU's ceilings depend; None on a GPU, where none do."""
    if device == "cuda":
        return None
    import torch

    return torch.get_num_threads()
