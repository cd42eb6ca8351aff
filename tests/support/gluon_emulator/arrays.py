"""Values in registers: a `Tile` is an array with a dtype, rounded as on a GPU, and the reads it came from.

Floats are held as fp32 arrays whatever their dtype, integers as int64 with a check that they fit their own.
"""

from dataclasses import dataclass

import numpy as np

from .errors import HazardError
from .scalars import Float, width


@dataclass(frozen=True)
class DType:
    """A dtype of the kernel language."""

    name: str
    kind: str
    """"f", "i" or "b"."""
    bits: int

    @property
    def primitive_bitwidth(self) -> int:
        """Return the bits of an element."""
        return self.bits


INT1 = DType("int1", "b", 1)
INT32 = DType("int32", "i", 32)
INT64 = DType("int64", "i", 64)
FLOAT32 = DType("float32", "f", 32)
FLOAT64 = DType("float64", "f", 64)
FLOAT16 = DType("float16", "f", 16)
BFLOAT16 = DType("bfloat16", "f", 16)


def rounded(values: np.ndarray, dtype: DType) -> np.ndarray:
    """Round an fp32 array to the values of a float dtype, to nearest, ties to even."""
    if dtype is FLOAT16:
        return values.astype(np.float16).astype(np.float32)
    if dtype is BFLOAT16:
        bits = np.ascontiguousarray(values).view(np.uint32)
        return ((bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) & np.uint32(0xFFFF0000)).view(np.float32)
    return values


def fitting(values: np.ndarray, bits: int) -> np.ndarray:
    """Return the int64 array if its values fit `bits` bits.

    Raises:
        HazardError: if one does not.
    """
    if bits == 32 and values.size and (values.max() >= 2**31 or values.min() < -(2**31)):
        raise HazardError("int32 overflow in a tile")
    return values


class Tile:
    """An array in registers; `reads` are the reads of shared memory that its values depend on."""

    __slots__ = ("data", "dtype", "reads")

    def __init__(self, data, dtype, reads=()):
        self.data, self.dtype, self.reads = data, dtype, reads

    @property
    def shape(self):
        """Return the shape as a list."""
        return list(self.data.shape)

    def to(self, dtype):
        """Convert to another dtype."""
        if dtype is self.dtype:
            return self
        data = self.data
        if dtype.kind == "f":
            data = rounded(data.astype(np.float32), dtype)
        elif self.dtype.kind == "f":
            if not (np.abs(data) < 2.0 ** (dtype.bits - 1)).all():
                raise HazardError(f"a float does not fit int{dtype.bits}")
            data = data.astype(np.int64)
        else:
            data = fitting(data.astype(np.int64), dtype.bits)
        return Tile(data, dtype, self.reads)

    def __getitem__(self, key):
        if any(item not in (None, slice(None)) for item in (key if isinstance(key, tuple) else (key,))):
            raise TypeError("a tile takes `:` and `None` as indices only")
        return Tile(self.data[key], self.dtype, self.reads)

    def __neg__(self):
        return Tile(-self.data, self.dtype, self.reads)

    def __invert__(self):
        return Tile(~self.data, self.dtype, self.reads)

    def __bool__(self):
        raise TypeError("a tile is no condition")


def joined(a: tuple, b: tuple) -> tuple:
    """Return the reads of two operands."""
    return a + b if a and b and a is not b else a or b


def _operands(a, b):
    """Return both arrays, the reads, and the dtype that arithmetic on the operands has."""
    if isinstance(b, Tile):
        kinds = {a.dtype, b.dtype}
        if len(kinds) == 1:
            dtype = a.dtype
        elif kinds == {INT32, INT64}:
            dtype = INT64
        else:
            raise TypeError(f"no arithmetic on {a.dtype.name} and {b.dtype.name}: convert one")
        return a.data, b.data, joined(a.reads, b.reads), dtype
    if isinstance(b, bool):
        return a.data, b, a.reads, a.dtype
    if isinstance(b, int) and a.dtype.kind == "i":
        return a.data, int(b), a.reads, INT64 if width(b) == 64 else a.dtype
    if isinstance(b, (int, float)) and a.dtype.kind == "f":
        return a.data, np.float32(b), a.reads, a.dtype
    raise TypeError(f"no arithmetic on a tile of {a.dtype.name} and {b!r}")


def _arithmetic(name, plain, kinds):
    def finish(x, y, reads, dtype):
        if dtype.kind not in kinds:
            raise TypeError(f"no {name} on {dtype.name}")
        if dtype.kind == "f" and dtype is not FLOAT32:
            raise TypeError(f"{name} on {dtype.name}: the kernel computes in fp32 or by inline assembly")
        data = plain(x, y)
        return Tile(fitting(data, dtype.bits) if dtype.kind == "i" else data, dtype, reads)

    def op(a, b):
        if not isinstance(b, (Tile, int, float)):
            return NotImplemented
        return finish(*_operands(a, b))

    def reflected(a, b):
        if not isinstance(b, (int, float)):
            return NotImplemented
        x, y, reads, dtype = _operands(a, b)
        return finish(y, x, reads, dtype)

    setattr(Tile, f"__{name}__", op)
    setattr(Tile, f"__r{name}__", reflected)


def _comparison(name, plain):
    def op(a, b):
        x, y, reads, _ = _operands(a, b)
        return Tile(plain(x, y), INT1, reads)

    setattr(Tile, f"__{name}__", op)


for _name, _plain, _kinds in (
    ("add", np.add, "fi"),
    ("sub", np.subtract, "fi"),
    ("mul", np.multiply, "fi"),
    ("truediv", np.divide, "f"),
    ("and", np.bitwise_and, "ib"),
    ("or", np.bitwise_or, "ib"),
    ("xor", np.bitwise_xor, "ib"),
):
    _arithmetic(_name, _plain, _kinds)
for _name, _plain in (
    ("lt", np.less),
    ("le", np.less_equal),
    ("gt", np.greater),
    ("ge", np.greater_equal),
    ("eq", np.equal),
    ("ne", np.not_equal),
):
    _comparison(_name, _plain)


def as_tile(value, like: Tile) -> Tile:
    """Return a tile, or a scalar as a tile of the dtype of `like`."""
    if isinstance(value, Tile):
        return value
    kind = np.float32 if like.dtype.kind == "f" else np.int64
    return Tile(np.asarray(float(value) if isinstance(value, Float) else value, kind), like.dtype)
