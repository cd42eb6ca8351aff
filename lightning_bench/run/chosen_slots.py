"""Which slots a command measures on, and which part of a sweep: what --gpus, --executor and --shard say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass

from lightning_bench.case import Device
from lightning_bench.errors import UsageError
from lightning_bench.machine import Machine
from lightning_bench.machine.gpu import Gpu, cuda_gpu
from lightning_bench.machine.place_lock import hold
from lightning_bench.run.executor import Executor, Fleet, Slot
from lightning_bench.run.lane import Crew
from lightning_bench.run.local_executor import LocalFleet
from lightning_bench.run.plan import Plan
from lightning_bench.run.shard import SweepShard
from lightning_bench.run.slots import USE_PROCESSORS, local_slots, names_processors
from lightning_bench.words import choice

EXECUTORS = ("local", "ray", "slurm")
"""Who gives out the slots: this machine, a Ray cluster, SLURM."""


@dataclass(frozen=True)
class Chosen:
    """The slots to measure on, none for the one device as ever, and the part of the sweep; to be closed."""

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
            with _marked(crew.device):
                yield None
            return
        with closing(self.fleet.executor(crew)) as executor:
            yield executor

    def close(self) -> None:
        """Give the slots back."""
        if self.fleet is not None:
            self.fleet.close()


def choose_slots(
    gpus: str | None,
    executor: str | None = None,
    shard: str | None = None,
    *,
    device: str | None = None,
    instead: str | None = None,
) -> Chosen:
    """Return the slots and the part of a sweep that the options of these names say; None for one not given.

    `device` is what --device has, which does not go with slots. `instead` is what to do on a CPU where slots
    of one are no use. Raise UsageError for what is wrong, and for slots that there are not.
    """
    part = None if shard is None else SweepShard.parse(shard)
    if gpus is None and executor is None:
        return Chosen(shard=part)
    name = executor or "local"
    if name not in EXECUTORS:
        raise UsageError(f"--executor {name!r} is not known; {choice(name, EXECUTORS)}")
    if device is not None:
        raise UsageError(f"--gpus and --executor do not go with --device {device}: leave it out")
    if instead and names_processors(gpus or ""):
        raise UsageError(f"--gpus {gpus}: slots of a CPU disturb each other; {instead}")
    return Chosen(_fleet(name, "all" if gpus is None else gpus, instead or USE_PROCESSORS), part)


def _fleet(name: str, wanted: str, instead: str) -> Fleet:
    if name == "ray":
        from lightning_bench.run.ray_executor import RayFleet

        return RayFleet(wanted, instead)
    if name == "slurm":
        from lightning_bench.run.slurm_executor import SlurmFleet

        return SlurmFleet(wanted)
    return LocalFleet(local_slots(wanted, instead))


@contextmanager
def _marked(device: Device) -> Iterator[None]:
    """Keep sweeps with --gpus off the one GPU that is measured on, unless another process does already."""
    with ExitStack() as stack:
        if device == "cuda":
            with suppress(UsageError):
                stack.enter_context(hold({cuda_gpu().uuid: "the GPU"}))
        yield
