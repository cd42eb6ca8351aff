"""The options of commands that measure on several GPUs, or a part of a sweep, and what they choose."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from lightning_bench.errors import UsageError

if TYPE_CHECKING:
    from lightning_bench.case import Device
    from lightning_bench.machine.gpu import Gpu
    from lightning_bench.run.executor import Executor, Slot
    from lightning_bench.run.lane import Crew
    from lightning_bench.run.plan import Plan
    from lightning_bench.run.shard import SweepShard

_PANEL = "Several GPUs"


@dataclass(frozen=True)
class Chosen:
    """The slots to measure on, none for the one device as ever, and the part of the sweep."""

    slots: tuple[Slot, ...] = ()
    shard: SweepShard | None = None

    @property
    def device(self) -> Device | None:
        """The device of the slots; None if there are none."""
        return self.slots[0].machine.device if self.slots else None

    @property
    def gpus(self) -> list[Gpu]:
        """The GPUs of the slots."""
        return [slot.place.gpu for slot in self.slots if slot.place.gpu is not None]

    @property
    def count(self) -> int:
        """How many jobs run at once."""
        return max(1, len(self.slots))

    def part(self, plan: Plan) -> Plan:
        """Return the part of a plan that is to be measured here."""
        return plan if self.shard is None else self.shard.part(plan)

    @contextmanager
    def executor(self, crew: Crew) -> Iterator[Executor | None]:
        """Yield what measures with such workers on the slots, None without slots.

        Raise UsageError if another process has one of them. Without slots the GPU is only marked as in use.
        """
        if not self.slots:
            with marked(crew.device):
                yield None
            return
        from lightning_bench.run.local_executor import LocalExecutor
        from lightning_bench.run.slots import fair_share

        with closing(LocalExecutor(self.slots, fair_share(crew, self.slots))) as executor:
            yield executor


@contextmanager
def marked(device: Device) -> Iterator[None]:
    """Keep sweeps with --gpus off the one GPU that is measured on, unless another process does already."""
    from lightning_bench.machine.gpu import cuda_gpu
    from lightning_bench.machine.place_lock import hold

    with ExitStack() as stack:
        if device == "cuda":
            with suppress(UsageError):
                stack.enter_context(hold({cuda_gpu().uuid: "the GPU"}))
        yield


@dataclass(frozen=True)
class GpuChoice:
    """On which GPUs cases are measured."""

    gpus: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Measure on several at once, a shape on each: all, or 0,1 or UUIDs as `lbench gpus` lists "
            "them. cpu:N divides the processors into N slots.",
            rich_help_panel=_PANEL,
        ),
    ] = None

    def slots(self, device: str | None) -> tuple[Slot, ...]:
        """Return the slots; UsageError if one is not here, and for --device beside --gpus."""
        if self.gpus is None:
            return ()
        from lightning_bench.run.slots import local_slots

        if device is not None:
            raise UsageError(f"--gpus {self.gpus} and --device {device} do not go together: leave one out")
        return tuple(local_slots(self.gpus))


@dataclass(frozen=True)
class Slots(GpuChoice):
    """On which GPUs the cases of a sweep are measured, and which part of them."""

    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Measure part I of N only, into a file of its own, for `lbench merge`.",
            rich_help_panel=_PANEL,
        ),
    ] = None

    def chosen(self, device: str | None) -> Chosen:
        """Return the slots and the shard; UsageError if one is wrong, and for --device beside them."""
        from lightning_bench.run.shard import SweepShard

        shard = None if self.shard is None else SweepShard.parse(self.shard)
        return Chosen(self.slots(device), shard)
