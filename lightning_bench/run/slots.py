"""From what `--gpus` names to slots of this machine."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace

import psutil

from lightning_bench.errors import UsageError
from lightning_bench.machine import describe_machine
from lightning_bench.machine.gpu import Gpu, usable_gpus, why_no_gpu
from lightning_bench.machine.place import Place
from lightning_bench.run.executor import Slot
from lightning_bench.run.lane import Crew
from lightning_bench.run.worker import SPARE_FRACTION

USE_PROCESSORS = "give --gpus cpu:N"
"""What to do where there is no GPU to measure on."""
_MOST_PER_PROCESSOR = 4


def local_slots(wanted: str, instead: str = USE_PROCESSORS) -> list[Slot]:
    """Return the slots that `all`, numbers or UUIDs of `lbench gpus` with commas, or `cpu:N` name.

    GPUs must be of one kind. `cpu:N` divides the processors that this process may use among N slots.
    Raise UsageError for anything else; without a GPU it says what to do `instead`.
    """
    if names_processors(wanted):
        return _of_processors(wanted.strip())
    if reason := why_no_gpu():
        raise UsageError(f"no CUDA device: {reason}; mend that, or {instead}")
    found = usable_gpus()
    chosen = list(range(len(found))) if wanted.strip() == "all" else _numbers(wanted, found)
    slots = [
        Slot(
            f"GPU {number}",
            describe_machine("cuda", gpu=found[number]),
            Place(found[number]),
            f"local {len(chosen)}",
        )
        for number in chosen
    ]
    if unlike := next((slot for slot in slots if slot.machine.id != slots[0].machine.id), None):
        raise UsageError(
            f"--gpus {wanted}: {slots[0].name} is a {slots[0].machine.device_name} and {unlike.name} a "
            f"{unlike.machine.device_name}; a case would be measured on either: name GPUs of one kind"
        )
    return slots


def names_processors(wanted: str) -> bool:
    """Return whether `--gpus` has `cpu:N`."""
    return wanted.strip().startswith("cpu")


def fair_share(crew: Crew, slots: Sequence[Slot]) -> Crew:
    """Return the crew with an equal part of the free memory for each of several slots of one host's CPU."""
    if crew.device != "cpu" or crew.memory_limit_gib is not None:
        return crew
    free_gib = psutil.virtual_memory().available * SPARE_FRACTION / 2**30
    return replace(crew, memory_limit_gib=free_gib / len(slots))


def _of_processors(wanted: str) -> list[Slot]:
    usable = sorted(os.sched_getaffinity(0))
    match = re.fullmatch(r"cpu:([0-9]{1,4})", wanted)
    count = int(match[1]) if match else 0
    most = _MOST_PER_PROCESSOR * len(usable)
    if not 1 <= count <= most:
        raise UsageError(f"--gpus {wanted!r} is not known; allowed for a CPU: cpu:1 to cpu:{most} here")
    machine = describe_machine("cpu")
    slots = []
    for number in range(count):
        own = usable[number * len(usable) // count : (number + 1) * len(usable) // count]
        place = Place(processors=tuple(own or [usable[number % len(usable)]]))
        slots.append(Slot(f"CPU {number}", machine, place, f"local {count}"))
    return slots


def _numbers(wanted: str, gpus: Sequence[Gpu]) -> list[int]:
    """Return which GPUs are named, each once."""
    numbers = []
    for name in filter(None, (part.strip() for part in wanted.split(","))):
        at = [number for number, gpu in enumerate(gpus) if name.lower() in (str(number), gpu.uuid.lower())]
        if not at and name[:4].upper() in ("GPU-", "MIG-"):
            at = [number for number, gpu in enumerate(gpus) if gpu.uuid.lower().startswith(name.lower())]
        if len(at) != 1:
            raise UsageError(
                f"--gpus {wanted}: {name!r} is {'several' if at else 'none'} of the GPUs here; allowed: all, "
                f"0 to {len(gpus) - 1}, UUIDs (`lbench gpus` lists them), or cpu:N for a CPU"
            )
        numbers += at
    if not numbers or len(set(numbers)) < len(numbers):
        raise UsageError(f"--gpus {wanted!r} names {'a GPU twice' if numbers else 'no GPU'}; try --gpus all")
    return numbers
