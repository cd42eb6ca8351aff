"""The options of commands that measure on several GPUs, or a part of a sweep, and what they choose."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from lightning_bench.cli.shared.common_options import known
from lightning_bench.cli.shared.completion import one_of
from lightning_bench.errors import UsageError

if TYPE_CHECKING:
    from lightning_bench.case import Device
    from lightning_bench.machine import Machine
    from lightning_bench.machine.gpu import Gpu
    from lightning_bench.run.executor import Executor, Fleet, Slot
    from lightning_bench.run.lane import Crew
    from lightning_bench.run.plan import Plan
    from lightning_bench.run.shard import SweepShard

_PANEL = "Several GPUs"
_EXECUTORS = ("local", "ray", "slurm")


@dataclass(frozen=True)
class Chosen:
    """The slots to measure on, none for the one device as ever, and the part of the sweep."""

    fleet: Fleet | None = None
    shard: SweepShard | None = None

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The slots, if there are several or one by name."""
        return self.fleet.slots if self.fleet else ()

    @property
    def machine(self) -> Machine | None:
        """The machine that a plan is for: that of the slots, None for this one."""
        return self.slots[0].machine if self.slots else None

    @property
    def gpus(self) -> list[Gpu]:
        """The GPUs of this host among the slots."""
        local = [slot.place.gpu for slot in self.slots if slot.executor.startswith("local")]
        return [gpu for gpu in local if gpu is not None]

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
        if self.fleet is None:
            with marked(crew.device):
                yield None
            return
        with closing(self.fleet.executor(crew)) as executor:
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
    """On which GPUs cases are measured, and who gives them out."""

    gpus: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Measure on several at once, a shape on each: all, or 0,1 or UUIDs as `lbench gpus` lists "
            "them; with ray or slurm how many. cpu:N: N slots without a GPU.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    executor: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Who gives out the GPUs: local (this machine, default), ray or slurm (docs/scale.md).",
            autocompletion=one_of(_EXECUTORS),
            rich_help_panel=_PANEL,
        ),
    ] = None

    def chosen(self, context: typer.Context, device: str | None, shard: SweepShard | None = None) -> Chosen:
        """Return the slots, which stay until the command ends; UsageError for slots that there are not.

        `device` is what --device has, which does not go with them.
        """
        if self.gpus is None and self.executor is None:
            return Chosen(shard=shard)
        name = known("--executor", self.executor or "local", _EXECUTORS)
        if device is not None:
            raise UsageError(f"--gpus and --executor do not go with --device {device}: leave it out")
        return Chosen(context.with_resource(closing(_fleet(name, self.gpus or "all"))), shard)


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

    def chosen_part(self, context: typer.Context, device: str | None) -> Chosen:
        """Return the slots and the shard; UsageError if one is wrong."""
        from lightning_bench.run.shard import SweepShard

        return self.chosen(context, device, None if self.shard is None else SweepShard.parse(self.shard))


def _fleet(name: str, wanted: str) -> Fleet:
    if name == "ray":
        from lightning_bench.run.ray_executor import RayFleet

        return RayFleet(wanted)
    if name == "slurm":
        from lightning_bench.run.slurm_executor import SlurmFleet

        return SlurmFleet(wanted)
    from lightning_bench.run.local_executor import LocalFleet
    from lightning_bench.run.slots import local_slots

    return LocalFleet(local_slots(wanted))
