"""Warnings before a run: others already use the machine, or Triton's kernels are interpreted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_bench.case import Device
    from lightning_bench.cli.shared.sink import Sink
    from lightning_bench.machine.gpu import Gpu


def warn_if_busy(sink: Sink, device: Device, gpus: Sequence[Gpu] = ()) -> None:
    """Say in one line on stderr who uses the machine, if anybody does: it takes a third of a second.

    Of several GPUs it is asked who uses each.
    """
    from lightning_bench.measure.foreign import busy_now

    if busy := busy_now(device, gpus):
        sink.say(f"{busy}; what is measured beside foreign load is unstable")


def warn_if_interpreted(sink: Sink) -> None:
    """Say in one line on stderr that TRITON_INTERPRET is set, if it is."""
    from lightning_bench.machine.interpreter import interprets_kernels

    if interprets_kernels():
        sink.say(
            "TRITON_INTERPRET is set: Triton interprets its kernels, and their times say nothing about them; "
            "`lbench check` compares what they compute"
        )
