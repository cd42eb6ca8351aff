"""mbarriers, and clocks: who knows of what has happened.

A clock maps each agent, a partition or its copies, to the number of its last event that is known. An arrival
hands the clock of who arrives to the barrier, a wait that passes takes the barrier's. A read that does not
know of the write before it, or a write that does not know of the reads before it, is a race, whatever the
order of this one run.
"""

from collections.abc import Hashable

from .errors import HazardError

Clock = dict[Hashable, int]


def learn(clock: Clock, other: Clock) -> None:
    """Add to a clock what another one knows."""
    for agent, tick in other.items():
        if clock.get(agent, 0) < tick:
            clock[agent] = tick


class Barrier:
    """An mbarrier: a phase ends with the last of its arrivals and of the bytes that it expects."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.count = 0
        self.left = 0
        self.bytes = 0
        self.phase = 0
        self.clock: Clock = {}
        self._arriving: Clock = {}
        self.fenced = False

    def init(self, count: int) -> None:
        """Set the number of arrivals of a phase."""
        if self.count:
            raise HazardError(f"{self.name} is initialised twice")
        if count < 1:
            raise HazardError(f"{self.name} is initialised with a count of {count}")
        self.count = self.left = count

    def arrive(self, count: int, clock: Clock) -> None:
        """Count arrivals; the last one ends the phase unless bytes are expected."""
        if not self.count:
            raise HazardError(f"{self.name} is not initialised")
        if count > self.left:
            raise HazardError(f"{self.name} takes {self.left} more arrivals in this phase, not {count}")
        self.left -= count
        learn(self._arriving, clock)
        self._end()

    def expect(self, count: int) -> None:
        """Expect bytes before the phase ends."""
        self.bytes += count

    def receive(self, count: int, clock: Clock) -> None:
        """Count bytes that have come in."""
        self.bytes -= count
        learn(self._arriving, clock)
        if self.bytes < 0 and not self.left:
            raise HazardError(f"{self.name} receives {-self.bytes} bytes more than it expects")
        self._end()

    def _end(self) -> None:
        if self.left == 0 and self.bytes == 0:
            self.phase ^= 1
            self.left = self.count
            learn(self.clock, self._arriving)

    def passed(self, parity: int) -> bool:
        """Say whether the phase of this parity has ended, as far as a parity tells."""
        return self.phase != parity
