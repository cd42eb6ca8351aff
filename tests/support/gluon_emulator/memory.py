"""Global memory: what a launch may read, and what it must write, each element once."""

import numpy as np
import torch

from .arrays import BFLOAT16, FLOAT16, FLOAT32, INT32, INT64, Tile, rounded
from .errors import HazardError
from .scalars import integer, scalar

DTYPES = {
    torch.float32: FLOAT32,
    torch.float16: FLOAT16,
    torch.bfloat16: BFLOAT16,
    torch.int32: INT32,
    torch.int64: INT64,
    torch.uint8: INT32,
}


class Region:
    """A tensor of the host, with the rest of its storage, of which no element may be touched."""

    def __init__(self, name: str, tensor: torch.Tensor, output: bool) -> None:
        self.name, self.tensor, self.dtype = name, tensor, DTYPES[tensor.dtype]
        self.flat = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
        self.values = (self.flat.float() if self.dtype.kind == "f" else self.flat.long()).numpy().copy()
        self.inside = self._mask(True)
        self.written = self._mask(False) if output else None
        self.count = 0
        if output:
            self.values[self.inside] = np.nan

    def _mask(self, value: bool) -> np.ndarray:
        mask = torch.zeros(self.flat.numel(), dtype=torch.bool)
        if value and self.tensor.numel():
            mask.as_strided(self.tensor.shape, self.tensor.stride(), self.tensor.storage_offset()).fill_(True)
        return mask.numpy()

    def check(self, offsets: np.ndarray, what: str) -> None:
        """Check that elements belong to the tensor."""
        if offsets.size and (
            offsets.min() < 0 or offsets.max() >= self.values.size or not self.inside[offsets].all()
        ):
            raise HazardError(f"{what} outside of {self.name}")

    def write(self, offsets: np.ndarray, values: np.ndarray) -> None:
        """Store elements of a tensor that the launch is to write."""
        if self.written is None:
            raise HazardError(f"store to {self.name}, which is an input")
        self.check(offsets, "store")
        self.values[offsets] = rounded(values, self.dtype)
        self.written[offsets] = True
        self.count += offsets.size
        if np.count_nonzero(self.written) != self.count:
            raise HazardError(f"an element of {self.name} is written twice")

    def finish(self) -> None:
        """Hand the values to the host's tensor.

        Raises:
            HazardError: if an element was never written.
        """
        if self.written is None:
            return
        missing = int(np.count_nonzero(self.inside & ~self.written))
        if missing:
            raise HazardError(f"{missing} elements of {self.name} are never written")
        values = torch.from_numpy(self.values).to(self.tensor.dtype)
        self.tensor.copy_(values.as_strided(
            self.tensor.shape, self.tensor.stride(), self.tensor.storage_offset()
        ))  # fmt: skip


class Pool(Region):
    """A tensor of which a launch reads some elements and overwrites some, none after another has."""

    def __init__(self, name: str, tensor: torch.Tensor) -> None:
        super().__init__(name, tensor, output=False)
        self.written = self._mask(False)

    def check(self, offsets: np.ndarray, what: str) -> None:
        """Check that elements belong to the tensor, and that what is read is as the host gave it."""
        super().check(offsets, what)
        if what == "load" and self.written is not None and self.written[offsets].any():
            raise HazardError(f"load of what another program has written to {self.name}")

    def finish(self) -> None:
        """Hand the values to the host's tensor; what was not written keeps its own."""
        self.written = self.inside.copy()
        super().finish()


class _PointerType:
    def __init__(self, element_ty):
        self.element_ty = element_ty


class Pointer:
    """One address in a region, or a tile of them; offsets are 64 bits wide."""

    __slots__ = ("offset", "region")

    def __init__(self, region: Region, offset) -> None:
        self.region, self.offset = region, offset

    @classmethod
    def to_tensor(cls, name: str, tensor: torch.Tensor, output: bool) -> "Pointer":
        """Return a pointer to the first element of a tensor."""
        return cls(Region(name, tensor, output), tensor.storage_offset())

    @property
    def dtype(self) -> _PointerType:
        """Return the type, whose `element_ty` is the dtype of the elements."""
        return _PointerType(self.region.dtype)

    @property
    def shape(self) -> list[int]:
        """Return the shape of a tile of pointers."""
        return list(self.offset.shape)

    def __add__(self, steps):
        if isinstance(steps, Tile):
            return Pointer(self.region, self.offset + steps.data)
        return Pointer(self.region, self.offset + (int(steps) if isinstance(steps, int) else steps))

    __radd__ = __add__

    def __mul__(self, other):
        raise TypeError("arithmetic on a pointer")


def gather(pointer: Pointer, mask, fill: float) -> np.ndarray:
    """Read a tile; elements that are masked out are `fill`."""
    region, offsets = pointer.region, pointer.offset
    if mask is None:
        region.check(offsets, "load")
        return region.values[offsets]
    inside = np.broadcast_to(mask.data if isinstance(mask, Tile) else np.asarray(bool(mask)), offsets.shape)
    if not inside.any():
        return np.full(offsets.shape, fill, region.values.dtype)
    if inside.all():
        region.check(offsets, "load")
        return region.values[offsets]
    wanted = offsets[inside]
    region.check(wanted, "load")
    values = np.full(offsets.shape, fill, region.values.dtype)
    values[inside] = region.values[wanted]
    return values


def load(pointer: Pointer, mask=None, other=None, **_hints):
    """Load a scalar or a tile; what is masked out and has no `other` is NaN."""
    region = pointer.region
    if isinstance(pointer.offset, int):
        if mask is not None:
            raise NotImplementedError("a masked load of a scalar")
        region.check(np.asarray([pointer.offset]), "load")
        return scalar(region.values[pointer.offset].item(), region.dtype)
    fill = other if other is not None else (np.nan if region.dtype.kind == "f" else 2**30)
    return Tile(gather(pointer, mask, fill), region.dtype, () if mask is None else getattr(mask, "reads", ()))


def store(pointer: Pointer, value, mask=None, **_hints) -> None:
    """Store a scalar or a tile."""
    region = pointer.region
    if isinstance(pointer.offset, int):
        if mask is None or mask:
            region.write(np.asarray([pointer.offset]), np.asarray([value], np.float32))
        return
    offsets = pointer.offset
    data = np.broadcast_to(value.data, offsets.shape)
    if mask is None:
        inside = np.ones(offsets.shape, bool)
    else:
        inside = np.broadcast_to(
            mask.data if isinstance(mask, Tile) else np.asarray(bool(mask)), offsets.shape
        )
    if inside.any():
        for read in value.reads:
            read.use()
        region.write(offsets[inside], data[inside])


def launch_argument(value):
    """Return an argument that is no tensor as the kernel sees it."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    if isinstance(value, int):
        return integer(value, 32 if -(2**31) <= value < 2**31 else 64)
    return scalar(value, FLOAT32)
