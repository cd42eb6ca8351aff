"""Shared memory: tiles that begin as NaN, know who wrote and reads them, and report races.

A race is reported when its value is used, since a kernel may read what it then discards: a value is used when
it is stored.
"""

import math

import numpy as np

from .arrays import DType, Tile, rounded
from .barriers import Barrier, Clock
from .errors import HazardError


class Read:
    """A read of a tile by a partition, and whether it was a race."""

    __slots__ = ("agent", "fault", "name", "tick", "used")

    def __init__(self, agent: str, name: str) -> None:
        self.agent, self.name = agent, name
        self.tick: int | None = None
        """The event of the agent by which the read was complete; None while it is in flight."""
        self.fault = ""
        self.used = False

    def blame(self, fault: str) -> None:
        """Note that the read is a race."""
        self.fault = self.fault or f"{self.agent} reads {self.name} {fault}"
        if self.used:
            raise HazardError(self.fault)

    def use(self) -> None:
        """Note that a value that depends on the read is stored."""
        self.used = True
        if self.fault:
            raise HazardError(self.fault)


class Cell:
    """One tile of shared memory."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.writer: tuple[object, int] | None = None
        self.flying = 0
        self.generic = False
        """Whether the last write went through the generic proxy, which products see after a fence."""
        self.fences: list[tuple[str, int]] = []
        self.reads: list[Read] = []

    def begin_write(self, partition) -> None:
        """Note that a partition starts to overwrite the tile."""
        who = partition.name
        if self.flying:
            raise HazardError(f"{who} writes {self.name} while a copy to it is in flight")
        if self.writer is not None and not knows(partition.clock, self.writer):
            raise HazardError(f"{who} writes {self.name} without waiting for the write before")
        for read in self.reads:
            if read.tick is None or not knows(partition.clock, (read.agent, read.tick)):
                read.blame(f"while {who} may overwrite it")
        self.reads = [read for read in self.reads if read.tick is None]
        self.fences = []

    def read(self, partition, product: bool) -> Read:
        """Note a read by a partition or by a product that it starts."""
        read = Read(partition.name, self.name)
        if self.writer is None:
            read.blame("before anything is written to it")
        elif self.flying:
            read.blame("while a copy to it is in flight")
        elif not knows(partition.clock, self.writer):
            read.blame("without waiting for who wrote it")
        elif product and self.generic and not any(knows(partition.clock, fence) for fence in self.fences):
            read.blame("by a product without a fence after the write")
        self.reads.append(read)
        return read

    def fence(self, partition, tick: int) -> None:
        """Note a fence by a partition that knows of the write."""
        if self.generic and not self.flying and self.writer and knows(partition.clock, self.writer):
            self.fences.append((partition.name, tick))


def knows(clock: Clock, event: tuple[object, int]) -> bool:
    """Say whether a clock knows of an event."""
    return clock.get(event[0], 0) >= event[1]


class Shared:
    """A view of shared memory: some tiles of one allocation and their values."""

    __slots__ = ("cells", "dtype", "program", "values")

    def __init__(self, program, cells, values, dtype: DType) -> None:
        self.program, self.cells, self.values, self.dtype = program, cells, values, dtype

    @property
    def shape(self) -> list[int]:
        """Return the shape."""
        return list(self.values.shape)

    def index(self, i):
        """Return tile `i`, or barrier `i`."""
        if not 0 <= i < self.values.shape[0]:
            raise HazardError(f"index {int(i)} of {self.values.shape[0]} tiles of {self.cells[0].name}")
        cell = self.cells[i]
        if isinstance(cell, Barrier):
            return cell
        return Shared(self.program, (cell,), self.values[i], self.dtype)

    def permute(self, order):
        """Return a view with dims in another order."""
        return Shared(self.program, self.cells, self.values.transpose(tuple(map(int, order))), self.dtype)

    def reshape(self, shape):
        """Return a view of another shape, with the elements in their order."""
        values = self.values.reshape([int(dim) for dim in shape])
        if not np.shares_memory(values, self.values):
            raise HazardError("a reshape of shared memory would move elements")
        return Shared(self.program, self.cells, values, self.dtype)

    def load(self, layout=None):
        """Read the tiles into registers."""
        partition = self.program.current
        reads = tuple(cell.read(partition, False) for cell in self.cells)
        for read in reads:
            read.tick = partition.tick()
        yield
        return Tile(self.values.copy(), self.dtype, reads)

    def store(self, value):
        """Write the tiles from registers."""
        yield
        if value.shape != self.shape:
            raise HazardError(f"store of {value.shape} to {self.cells[0].name} of {self.shape}")
        if value.dtype is not self.dtype:
            raise HazardError(f"store of {value.dtype.name} to {self.cells[0].name} of {self.dtype.name}")
        for read in value.reads:
            read.use()
        partition = self.program.current
        for cell in self.cells:
            cell.begin_write(partition)
            cell.writer, cell.generic = (partition.name, partition.tick()), True
        self.values[...] = value.data
        yield


def allocate(program, dtype: DType, shape, barriers: bool, name: str) -> Shared:
    """Allocate tiles [count, …], or one tile of one dim, or barriers [count, 1]."""
    shape = [int(dim) for dim in shape]
    if barriers:
        return Shared(program, [Barrier(f"{name}[{i}]") for i in range(shape[0])], np.zeros(shape), dtype)
    count = shape[0] if len(shape) > 1 else 1
    cells = tuple(Cell(f"{name}[{i}]" if count > 1 else name) for i in range(count))
    program.cells.extend(cells)
    program.shared_bytes += math.prod(shape) * dtype.bits // 8
    poison = np.full(shape, np.nan, np.float32)
    return Shared(program, cells, poison if dtype.kind == "f" else np.full(shape, -(2**31)), dtype)


def land(destination: Shared, values: np.ndarray, dtype: DType) -> None:
    """Write what a copy has brought."""
    destination.values[...] = rounded(values, dtype)
    for cell in destination.cells:
        cell.flying -= 1
