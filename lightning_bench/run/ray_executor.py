"""RayExecutor: slots that are GPUs of a Ray cluster, each with an actor that hosts its lane."""

from __future__ import annotations

import os
import queue
import re
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lightning_bench.errors import LbenchError, UsageError
from lightning_bench.run.executor import JobFinished, Slot, SlotEvent, SlotLost, Unit
from lightning_bench.run.lane import Crew
from lightning_bench.run.remote_slots import check_alike, read_count
from lightning_bench.run.slot_host import SlotHost
from lightning_bench.run.slots import USE_PROCESSORS

_POLL_S = 60.0
_CONNECT_LIMIT_S = 10.0
_START_LIMIT_S = 300.0


class RayFleet:
    """Actors on a running cluster, one per GPU, for one plan after the other.

    `wanted` is `all`, a number of GPUs, or `cpu:N` for N slots of one CPU each; `host` is what an actor is.
    Raise UsageError if no cluster answers, or if it does not give as many; without a GPU it says what to do
    `instead`.
    """

    def __init__(self, wanted: str, instead: str = USE_PROCESSORS, host: type[SlotHost] = SlotHost) -> None:
        self._ray = _connected()
        count, device = read_count(wanted)
        if count is None:
            count = int(self._ray.cluster_resources().get("GPU", 0))
            if not count:
                raise UsageError(f"the Ray cluster has no GPU; add one, or {instead}")
        need = {"num_gpus": 1, "num_cpus": 0} if device == "cuda" else {"num_cpus": 1}
        remote = self._ray.remote(max_concurrency=2, **need)(host)
        self._actors = [remote.remote(device, Path.cwd(), "ray", count) for _ in range(count)]
        self._by_slot: dict[Slot, Any] = {}
        try:
            self._by_slot = dict(zip(self._described(), self._actors, strict=True))
            check_alike(list(self._by_slot))
        except BaseException:
            self.close()
            raise
        self.slots = tuple(self._by_slot)

    def executor(self, crew: Crew) -> RayExecutor:
        """Return what measures with such workers."""
        return RayExecutor(self._ray, self._by_slot, crew)

    def close(self) -> None:
        """End the actors."""
        for actor in self._actors:
            self._ray.kill(actor)

    def _described(self) -> list[Slot]:
        slots = [actor.describe.remote() for actor in self._actors]
        ready, waiting = self._ray.wait(slots, num_returns=len(slots), timeout=_START_LIMIT_S)
        if waiting:
            raise UsageError(
                f"the Ray cluster gave {len(ready)} of {len(slots)} slots in {_START_LIMIT_S:.0f} s: others "
                "use it (`ray status`); ask for fewer by --gpus N"
            )
        try:
            found: list[Slot] = self._ray.get(slots)
        except self._ray.exceptions.RayError as error:
            raise UsageError(f"a slot of the Ray cluster cannot measure: {_reason(error)}") from None
        return found


class RayExecutor:
    """Gives units to the actors and asks each that has one what has happened, one long request at a time."""

    def __init__(self, ray: Any, actors: dict[Slot, Any], crew: Crew) -> None:
        self._ray, self._actors = ray, dict(actors)
        self._working: set[Slot] = set()
        self._answers: queue.SimpleQueue[tuple[Slot, Any]] = queue.SimpleQueue()
        begins = [(actor, actor.begin.remote(crew)) for actor in self._actors.values()]
        for actor, begin in begins:
            try:
                ray.get(begin)
            except ray.exceptions.RayTaskError:
                raise
            except ray.exceptions.RayError:
                # Its node has died, now or in the last plan, and `events` says so. One that was only out of
                # reach must not come back: it may have no workers.
                ray.kill(actor)

    def slots(self) -> Sequence[Slot]:
        """Return all slots."""
        return list(self._actors)

    def submit(self, slot: Slot, unit: Unit) -> None:
        """Send the unit to the actor."""
        self._actors[slot].submit.remote(unit)
        self._working.add(slot)
        self._ask(slot)

    def events(self) -> Iterator[SlotEvent]:
        """Yield what the actors report; one that has died is a slot that is lost."""
        while self._working:
            slot, answer = self._answers.get()
            events = self._read(answer, slot)
            if events and isinstance(events[-1], JobFinished | SlotLost):
                self._working.remove(slot)
            else:
                self._ask(slot)
            yield from events

    def close(self) -> None:
        """End what still runs; the actors stay for the next plan."""
        ends = [actor.end.remote() for actor in self._actors.values()]
        for end in ends:
            try:
                self._ray.get(end)
            except self._ray.exceptions.RayError:  # it has died before
                continue

    def _ask(self, slot: Slot) -> None:
        """Have an actor say what happens next. Its answer comes by itself: waiting for all is O(slots)."""
        answer = self._actors[slot].poll.remote(_POLL_S).future()
        answer.add_done_callback(lambda done: self._answers.put((slot, done)))

    def _read(self, answer: Any, slot: Slot) -> list[SlotEvent]:
        try:
            events: list[SlotEvent] = answer.result()
        except self._ray.exceptions.RayTaskError as error:
            raise LbenchError(f"{slot.name} failed: {_reason(error)}") from error
        except self._ray.exceptions.RayError as error:
            return [SlotLost(slot, _reason(error))]
        return events


def _connected() -> Any:
    """Return ray, connected to the cluster of RAY_ADDRESS or of this host."""
    try:
        import ray
    except ImportError:
        raise UsageError(
            '--executor ray needs Ray: pip install "lightning-bench[ray]", on every host of the cluster'
        ) from None
    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS", "auto")
        told = {name: value for name, value in os.environ.items() if name.startswith("LBENCH_")}
        try:
            _refuse_silence(address)
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level="ERROR",
                runtime_env={"env_vars": told},
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise UsageError(
                f"no Ray cluster answers ({_reason(error)}): run `ray start --head` here, or set RAY_ADDRESS"
            ) from None
    return ray


def _refuse_silence(address: str) -> None:
    """Raise OSError if nothing listens at `host:port`, where Ray would try for many minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=_CONNECT_LIMIT_S).close()


def _reason(error: BaseException) -> str:
    """Return the last line of an error of Ray, which follows remote tracebacks, without its colours."""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
