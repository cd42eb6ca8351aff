"""One program of a launch: its partitions take turns in a random order, and copies end at random times."""

import random
from collections.abc import Callable, Generator
from dataclasses import dataclass, field

from .barriers import Barrier, Clock, learn
from .errors import DeadlockError, HazardError


@dataclass(eq=False)
class Partition:
    """Warps that run one function of a program in step."""

    name: str
    warps: int
    clock: Clock = field(default_factory=dict)
    steps: Generator | None = None
    barrier: Barrier | None = None
    """What the partition waits at."""
    parity: int = 0
    products: list = field(default_factory=list)
    """Products in flight, the oldest first."""
    copies: list = field(default_factory=list)
    """Copies by cp.async that are in flight."""
    issued: int = 0

    def tick(self) -> int:
        """Count an event of this partition and return its number."""
        self.clock[self.name] = number = self.clock.get(self.name, 0) + 1
        return number

    @property
    def able(self) -> bool:
        """Whether the partition can go on."""
        return self.barrier is None or self.barrier.passed(self.parity)


class Copy:
    """A copy in flight, or an arrival that waits for copies: `land` is called once `after` have ended."""

    __slots__ = ("after", "ended", "land")

    def __init__(self, land: Callable[[], None], after=()) -> None:
        self.land, self.after, self.ended = land, after, False


class Program:
    """One program, from its first statement to its last."""

    def __init__(self, number: int, warps: int, rng: random.Random) -> None:
        self.number, self.rng = number, rng
        self.main = self.current = Partition("main", warps)
        self.cells: list = []
        self.shared_bytes = 0
        self.barriers: list[Barrier] = []
        self.copies: list[Copy] = []
        self.announced = False
        """Whether it has told others that what it wrote can be read (`workspaces`)."""
        self.seen: set[int] = set()
        """Programs whose writes it may read."""
        self._hurry = rng.choice((0.05, 0.3, 0.8))
        """How soon copies end."""
        self._stay = rng.choice((0.0, 0.5, 0.9))
        """How long a partition keeps its turn."""

    def run(self, steps: Generator) -> None:
        """Run the program's own statements; `specialize` runs the partitions within."""
        for _ in steps:
            pass

    def specialize(self, parts: list[tuple[str, int, Generator]]) -> None:
        """Run partitions (name, warps, steps) until all have ended.

        Raises:
            DeadlockError: if nobody can go on.
            HazardError: for what a partition does wrong.
        """
        running = [Partition(name, warps, dict(self.main.clock), steps) for name, warps, steps in parts]
        try:
            self._take_turns(running)
        finally:
            for partition in running:
                partition.steps.close()
        while self.copies:
            self._end_a_copy()
        self.current = self.main

    def _take_turns(self, running: list[Partition]) -> None:
        favourite = self.rng.choice([None, None, *running])
        turn = running[0]
        while running:
            able = [partition for partition in running if partition.able]
            if self.copies and (not able or self.rng.random() < self._hurry):
                self._end_a_copy()
                continue
            if not able:
                waits = ", ".join(
                    f"{p.name} at {p.barrier.name} for parity {p.parity}" for p in running if p.barrier
                )
                raise DeadlockError(f"program {self.number}: all wait: {waits}")
            if favourite in able and self.rng.random() < 0.8:
                turn = favourite
            elif turn not in able or self.rng.random() >= self._stay:
                turn = self.rng.choice(able)
            if not self._step(turn):
                running.remove(turn)

    def _step(self, partition: Partition) -> bool:
        """Let a partition go on until it synchronises; return whether it has more to do."""
        self.current = partition
        if partition.barrier is not None:
            learn(partition.clock, partition.barrier.clock)
            partition.barrier = None
        try:
            wanted = next(partition.steps)
        except StopIteration:
            if partition.products:
                raise HazardError(f"{partition.name} ends with a product in flight") from None
            return False
        if wanted is not None:
            partition.barrier, partition.parity = wanted
        return True

    def _end_a_copy(self) -> None:
        ready = [copy for copy in self.copies if all(other.ended for other in copy.after)]
        copy = self.rng.choice(ready)
        self.copies.remove(copy)
        copy.ended = True
        copy.land()
