"""The device that a command works on."""

from __future__ import annotations

from lightning_bench.case import DEVICES, Device
from lightning_bench.cli.shared.common_options import known


def resolve_device(wanted: str | None) -> Device:
    """Return the device named by `--device`, else the machine's own; UsageError for an unknown name."""
    from lightning_bench.machine import detect_device

    return detect_device() if wanted is None else known("--device", wanted, DEVICES)


def threads_of(device: Device) -> int | None:
    """Return how many threads torch uses, which a CPU's ceilings depend on; None on a GPU."""
    if device == "cuda":
        return None
    import torch

    return torch.get_num_threads()
