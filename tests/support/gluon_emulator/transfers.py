"""Copies into shared memory (cp.async and TMA) and mbarriers, as the kernel calls them."""

import numpy as np

from .arrays import BFLOAT16, FLOAT16
from .barriers import Clock
from .errors import HazardError
from .memory import Pointer, gather
from .schedule import Copy
from .shared import Shared, land


class AsyncCopies:
    """`gl.nvidia.ampere.async_copy`."""

    def __init__(self, machine) -> None:
        self._machine = machine

    def async_copy_global_to_shared(self, smem: Shared, pointer: Pointer, mask=None, **_hints):
        """Start a copy by cp.async, which writes through the generic proxy; masked elements become zeros."""
        program = self._machine.program
        partition = program.current
        if smem.shape != pointer.shape:
            raise HazardError(f"copy of {pointer.shape} to {smem.cells[0].name} of {smem.shape}")
        values = gather(pointer, mask, 0.0)
        partition.issued += 1
        begin(smem, partition, ((partition.name, "copies"), partition.issued), generic=True)
        copy = Copy(lambda: land(smem, values, smem.dtype))
        partition.copies.append(copy)
        program.copies.append(copy)
        yield

    def mbarrier_arrive(self, barrier, increment_count=True):
        """Let every thread arrive once its copies so far have ended."""
        if increment_count:
            raise NotImplementedError("mbarrier_arrive with increment_count")
        program = self._machine.program
        partition = program.current
        count = 32 * partition.warps
        clock = {**partition.clock, (partition.name, "copies"): partition.issued}
        waiting = tuple(copy for copy in partition.copies if not copy.ended)
        partition.copies = list(waiting)
        if waiting:
            program.copies.append(Copy(lambda: barrier.arrive(count, clock), waiting))
        else:
            barrier.arrive(count, clock)
        yield


class Boxes:
    """`gl.nvidia.hopper.tma`."""

    class tensor_descriptor:  # noqa: N801 (its name in Gluon)
        """The type of a descriptor in a kernel."""

    def __init__(self, machine) -> None:
        self._machine = machine

    def async_copy_global_to_shared(self, box, coord, barrier, result: Shared, pred=True, **_hints):
        """Start the copy of a box, which writes through the async proxy; what is outside becomes zeros."""
        if not pred:
            return
        program = self._machine.program
        partition = program.current
        if not barrier.fenced:
            raise HazardError(
                f"TMA arrives at {barrier.name}, which no fence follows after its initialisation"
            )
        values = box.read([int(i) for i in coord])
        if list(values.shape) != result.shape:
            raise HazardError(f"a box of {values.shape} for {result.cells[0].name} of {result.shape}")
        partition.issued += 1
        event = ((partition.name, "box", partition.issued % 64), partition.issued)
        begin(result, partition, event, generic=False)
        clock: Clock = {event[0]: event[1]}

        def done() -> None:
            land(result, values, result.dtype)
            barrier.receive(values.size * result.dtype.bits // 8, clock)

        program.copies.append(Copy(done))
        yield


class Barriers:
    """`gl.nvidia.hopper.mbarrier`."""

    class MBarrierLayout:
        """Marks an allocation as one of barriers."""

    def __init__(self, machine) -> None:
        self._machine = machine

    def init(self, barrier, count):
        """Set the number of arrivals of a phase."""
        barrier.init(int(count))
        self._machine.program.barriers.append(barrier)

    def wait(self, barrier, phase, pred=True, **_hints):
        """Wait until the phase of this parity has ended."""
        if pred:
            if phase not in (0, 1):
                raise HazardError(f"a parity of {int(phase)}")
            if not barrier.count:
                raise HazardError(f"{barrier.name} is not initialised")
            yield barrier, int(phase)
        else:
            yield

    def arrive(self, barrier, *, count=1, pred=True):
        """Arrive `count` times."""
        yield
        if pred:
            barrier.arrive(int(count), self._machine.program.current.clock)
            yield

    def expect(self, barrier, bytes_per_cta, pred=True):
        """Arrive once and expect bytes before the phase ends."""
        if pred:
            barrier.expect(int(bytes_per_cta))
            barrier.arrive(1, self._machine.program.current.clock)
            yield


def begin(destination: Shared, partition, event, generic: bool) -> None:
    """Note that a copy to these tiles is in flight."""
    for cell in destination.cells:
        cell.begin_write(partition)
        cell.writer, cell.generic = event, generic
        cell.flying += 1
    destination.values[...] = np.nan


class Box:
    """A TMA descriptor: tiles `block_shape` of a tensor that `shape` and `strides` describe."""

    def __init__(self, descriptor, region) -> None:
        self._region, self._shape = region, list(descriptor.shape)
        self._strides, self._block = list(descriptor.strides), list(descriptor.block_shape)
        self._start = region.tensor.storage_offset()
        size = region.dtype.bits // 8
        if descriptor.base.data_ptr() % 16 or any(step * size % 16 for step in self._strides[:-1]):
            raise HazardError(
                f"TMA needs addresses and strides of {region.name} that are multiples of 16 bytes"
            )
        if self._strides[-1] != 1 or any(not 0 < step < 2**40 for step in self._strides):
            raise HazardError(f"TMA cannot read strides {self._strides} of {region.name}")
        if region.dtype not in (FLOAT16, BFLOAT16):
            raise NotImplementedError(region.dtype.name)

    def read(self, coord: list[int]) -> np.ndarray:
        """Read one tile."""
        offsets, inside = np.zeros([1] * len(coord), np.int64), np.ones([1] * len(coord), bool)
        for dim, (first, size, limit, step) in enumerate(
            zip(coord, self._block, self._shape, self._strides, strict=True)
        ):
            if not -(2**31) <= first < 2**31:
                raise HazardError(f"a box begins at {first}")
            along = [1] * len(coord)
            along[dim] = size
            index = np.arange(first, first + size).reshape(along)
            offsets = offsets + index * step
            inside = inside & (index >= 0) & (index < limit)
        values = np.zeros(offsets.shape, np.float32)
        wanted = self._start + offsets[inside]
        self._region.check(wanted, "TMA")
        values[inside] = self._region.values[wanted]
        return values
