"""SlurmExecutor: slots that are tasks of a SLURM job array, each connected to the driver."""

from __future__ import annotations

import os
import queue
import secrets
import selectors
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any, Literal

from lightning_bench.case import Device
from lightning_bench.errors import LbenchError, UsageError
from lightning_bench.run.executor import JobFinished, Slot, SlotEvent, SlotLost, Unit
from lightning_bench.run.lane import Crew
from lightning_bench.run.remote_slots import check_alike, read_count
from lightning_bench.run.slot_host import SlotHost

_START_LIMIT_S = 600.0
_MINUTES = 240
_LONG_S = 3600.0


class SlurmFleet:
    """A job array with a task per GPU, for one plan after the other; it ends with this process.

    `wanted` is a number of GPUs, or `cpu:N` for N tasks without one. Tasks that have not started after ten
    minutes are cancelled, and the others measure. Raise UsageError if SLURM takes no job or starts none.
    `cluster` `local` starts the tasks on this host, without SLURM; `task` is what they run, a `Host`.
    """

    def __init__(
        self, wanted: str, cluster: Literal["slurm", "local"] = "slurm", task: type[Host] | None = None
    ) -> None:
        count, device = read_count(wanted)
        if count is None:
            raise UsageError("SLURM is told how many GPUs: give --gpus N, such as --gpus 8")
        key = secrets.token_bytes(32)
        self._arrivals = _Arrivals(key)
        self._connections: dict[Slot, Connection[Any, Any]] = {}
        address = (socket.gethostname(), self._arrivals.port)
        host = (task or Host)(address, key, device, Path.cwd(), count)
        self._jobs = _submitted(cluster, host, count)
        try:
            self._await(count)
            check_alike(list(self._connections))
        except BaseException:
            self.close()
            raise
        self.slots = tuple(self._connections)

    def executor(self, crew: Crew) -> SlurmExecutor:
        """Return what measures with such workers."""
        return SlurmExecutor(self._connections, crew)

    def close(self) -> None:
        """End the tasks, those that have not started too."""
        self._arrivals.close()
        for connection in self._connections.values():
            connection.close()
        for job in self._jobs:
            job.cancel(check=False)

    def _await(self, count: int) -> None:
        """Wait for the slots of all tasks, or for some of them as long as that is allowed."""
        deadline = time.monotonic() + _START_LIMIT_S
        refused: list[str] = []
        while len(self._connections) + len(refused) < count:
            connection = self._arrivals.next(deadline - time.monotonic())
            if connection is None:
                break
            try:
                slot = connection.recv()
            except (EOFError, OSError):
                slot = "its task ended as it began"
            if isinstance(slot, Slot):
                self._connections[slot] = connection
            else:
                refused.append(str(slot))
        if refused:
            raise UsageError(f"a task of the SLURM job cannot measure: {refused[0]}")
        if not self._connections:
            raise UsageError(
                f"SLURM has started no task within {_START_LIMIT_S:.0f} s (`squeue --me`): ask for fewer, or "
                "set SBATCH_PARTITION, SBATCH_ACCOUNT or SBATCH_TIMELIMIT"
            )


class SlurmExecutor:
    """Sends units to the tasks and reads what they report; one that hangs up is a slot that is lost."""

    def __init__(self, connections: dict[Slot, Connection[Any, Any]], crew: Crew) -> None:
        self._connections = dict(connections)
        self._working = selectors.DefaultSelector()  # what one of hundreds of connections sends costs no scan
        for connection in self._connections.values():
            with suppress(OSError):  # `events` reads that it has hung up, in the last plan or now
                connection.send(crew)

    def slots(self) -> Sequence[Slot]:
        """Return all slots."""
        return list(self._connections)

    def submit(self, slot: Slot, unit: Unit) -> None:
        """Send the unit to the task."""
        connection = self._connections[slot]
        self._working.register(connection, selectors.EVENT_READ, slot)
        try:
            connection.send(unit)
        except OSError:
            return  # `events` reads that it has hung up

    def events(self) -> Iterator[SlotEvent]:
        """Yield what the tasks report."""
        while self._working.get_map():
            for key, _ in self._working.select():
                events = self._answer(key.data)
                if isinstance(events[-1], JobFinished | SlotLost):
                    self._working.unregister(key.fileobj)
                yield from events

    def _answer(self, slot: Slot) -> list[SlotEvent]:
        try:
            events: list[SlotEvent] = self._connections[slot].recv()
        except (EOFError, OSError):
            return [SlotLost(slot, "its task has ended (`sacct` says why)")]
        return events

    def close(self) -> None:
        """End what still runs; the tasks stay for the next plan."""
        self._working.close()
        for connection in self._connections.values():
            try:
                connection.send(None)
            except OSError:
                continue


class _Arrivals:
    """Tasks that have connected, whoever is first; they prove that they know the key."""

    def __init__(self, key: bytes) -> None:
        self._listener = Listener(("", 0), authkey=key)
        self._queue: queue.SimpleQueue[Connection[Any, Any]] = queue.SimpleQueue()
        self._open = True
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        address = self._listener.address
        assert isinstance(address, tuple)
        return int(address[1])

    def next(self, seconds: float) -> Connection[Any, Any] | None:
        """Return the next task's connection; None if there is none for so long."""
        try:
            return self._queue.get(timeout=max(0.0, seconds))
        except queue.Empty:
            return None

    def close(self) -> None:
        """Accept no more; a task that comes later finds nobody and ends."""
        self._open = False
        self._listener.close()

    def _accept(self) -> None:
        while self._open:
            try:
                self._queue.put(self._listener.accept())
            except (AuthenticationError, EOFError, OSError):
                continue


class Host:
    """What a task runs: it connects to the driver, hosts a slot, and ends when the driver hangs up."""

    slot_host = SlotHost

    def __init__(
        self, address: tuple[str, int], key: bytes, device: Device, folder: Path, count: int
    ) -> None:
        self._address, self._key = address, key
        self._device, self._folder, self._count = device, folder, count

    @property
    def needs_gpu(self) -> bool:
        """Whether each task needs a GPU."""
        return self._device == "cuda"

    def __call__(self, number: int) -> None:
        """Measure what the driver sends; the tasks of an array differ in nothing."""
        # submitit ignores it, and the workers do not: without this, what `scancel` ends would have crashed.
        signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))
        with Client(self._address, authkey=self._key) as connection:
            try:
                host = self.slot_host(self._device, self._folder, "slurm", self._count)
            except LbenchError as error:
                connection.send(str(error))
                return
            connection.send(host.slot)
            threading.Thread(target=_report, args=(host, connection), daemon=True).start()
            try:
                while True:
                    match connection.recv():
                        case Crew() as crew:
                            host.begin(crew)
                        case Unit() as unit:
                            host.submit(unit)
                        case None:
                            host.end()
            except (EOFError, OSError):
                host.end()


def _report(host: SlotHost, connection: Connection[Any, Any]) -> None:
    """Send what happens until the driver has gone."""
    try:
        while True:
            if events := host.poll(_LONG_S):
                connection.send(events)
    except OSError:
        return
    except BaseException as error:
        connection.send([SlotLost(host.slot, f"{type(error).__name__}: {error}")])


def _submitted(cluster: str, host: Host, count: int) -> list[Any]:
    """Return the jobs of an array of so many tasks."""
    try:
        import submitit
    except ImportError:
        raise UsageError(
            '--executor slurm needs submitit: pip install "lightning-bench[slurm]", where hosts share it'
        ) from None
    folder = Path(".lbench") / "slurm"
    folder.mkdir(parents=True, mode=0o700, exist_ok=True)  # what tasks are given has the key
    os.chmod(folder, 0o700)
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
        if host.needs_gpu:
            executor.update_parameters(slurm_gres="gpu:1")
        executor.update_parameters(name="lbench", timeout_min=_MINUTES, tasks_per_node=1)
        # A task that is preempted is lost: nobody would use it when it comes again.
        executor.update_parameters(slurm_additional_parameters={"no_requeue": True})
        jobs: list[Any] = executor.map_array(host, range(count))
    except (RuntimeError, OSError, submitit.core.utils.FailedJobError) as error:
        raise UsageError(f"SLURM takes no job: {' '.join(str(error).split())}") from None
    return jobs
