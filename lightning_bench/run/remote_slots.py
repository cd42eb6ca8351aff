"""What slots on other hosts have in common: how many are asked for, and whether they are alike."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lightning_bench import __version__
from lightning_bench.case import Device
from lightning_bench.errors import UsageError
from lightning_bench.machine.software import version_of
from lightning_bench.run.executor import Slot


def read_count(wanted: str) -> tuple[int | None, Device]:
    """Return how many slots `all`, `N` or `cpu:N` asks for, None for all, and of which device."""
    match = re.fullmatch(r"(cpu:)?([1-9][0-9]{0,4})", wanted.strip())
    if match:
        return int(match[2]), "cpu" if match[1] else "cuda"
    if wanted.strip() == "all":
        return None, "cuda"
    raise UsageError(
        f"--gpus {wanted!r} is no number of slots; allowed with ray and slurm: all, 8 (GPUs), cpu:8 (slots "
        "without a GPU)"
    )


def check_alike(slots: Sequence[Slot]) -> None:
    """Raise UsageError unless the slots are of one kind of machine and have the software of this process.

    A plan is made here: versions of providers and of the harness must be those that measure.
    """
    first = slots[0]
    for slot in slots:
        if slot.machine.id != first.machine.id:
            raise UsageError(
                f"the slots are not alike: {first.name} is a {_kind(first)}, {slot.name} a {_kind(slot)}; a "
                "case would be measured on either. Ask for those of one kind"
            )
        here = {"lightning-bench": __version__, "torch": version_of("torch"), "triton": version_of("triton")}
        there = {
            "lightning-bench": slot.machine.harness_version,
            "torch": slot.machine.torch,
            "triton": slot.machine.triton,
        }
        for name, version in here.items():
            if there[name] != version:
                raise UsageError(
                    f"{name} is {version or 'not installed'} here and {there[name] or 'not installed'} on "
                    f"{slot.name}: give all hosts one environment"
                )


def _kind(slot: Slot) -> str:
    machine = slot.machine
    return f"{machine.device_name} (driver {machine.driver or 'none'}, torch {machine.torch})"
