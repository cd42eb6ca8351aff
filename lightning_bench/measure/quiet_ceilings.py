"""Ceilings that may be kept: measured again until nobody disturbs them and none contradicts another."""

from __future__ import annotations

from collections.abc import Callable

from lightning_bench.case import Device
from lightning_bench.errors import LbenchError
from lightning_bench.machine.ceilings import DeviceCeilings, contradictions
from lightning_bench.measure.device.gpu_probe import GpuProbe
from lightning_bench.measure.device.peaks import measure_device
from lightning_bench.measure.foreign import Foreign, gpu_processes, make_foreign

TRIES = 3


def quiet_ceilings(device: Device, say: Callable[[str], None]) -> DeviceCeilings:
    """Measure every ceiling, up to three times, of each the best; `say` gets why it is done again.

    Raises LbenchError if the last measurement was disturbed, or if the best of all contradict each other.
    """
    gpu = gpu_processes(device)
    foreign = make_foreign(device, gpu, GpuProbe() if device == "cuda" else None)
    return undisturbed(device, foreign, measure_device, say)


def undisturbed(
    device: Device, foreign: Foreign, measure: Callable[[Device], DeviceCeilings], say: Callable[[str], None]
) -> DeviceCeilings:
    """Do what `quiet_ceilings` says with `measure`, beside which `foreign` reads the load."""
    best: DeviceCeilings | None = None
    doubts: list[str] = []
    foreign.job_begins()
    for number in range(TRIES):
        key = f"ceilings, {number}"
        foreign.begins(key)
        found = measure(device)
        foreign.ends(key)
        best = found if best is None else found.or_better(best)
        load = foreign.figures(key)
        doubts = list(filter(None, [load.trouble, *contradictions(best, device)]))
        if not doubts:
            return best
        if number < TRIES - 1:
            say(f"measuring again: {'; '.join(doubts)}")
    raise LbenchError(
        f"the ceilings are not kept, since they cannot be trusted after {TRIES} measurements: "
        f"{'; '.join(doubts)}; run it again while nothing else runs"
    )
