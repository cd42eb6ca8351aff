"""Slots whose workers are real, run on the CPU, and are told of a GPU that no machine has."""

from __future__ import annotations

import os
from dataclasses import replace

from lightning_bench.machine import describe_machine
from lightning_bench.machine.gpu import Gpu
from lightning_bench.machine.place import Place
from lightning_bench.run.executor import Slot

OWN = f"{os.getpid()}"
"""Part of the UUIDs: tests of other checkouts on this machine must not have the same devices."""


def fake_gpu_slots(count: int) -> list[Slot]:
    """Return so many slots, with GPUs of one kind."""
    machine = describe_machine("cpu")
    return [
        Slot(
            f"GPU {number}",
            replace(machine, gpu_uuid=f"digits-{number}"),
            Place(Gpu("NVIDIA H200", "9.0", "570.1", f"GPU-{number}-{OWN}", f"GPU-{number}-{OWN}")),
            f"local {count}",
        )
        for number in range(count)
    ]
