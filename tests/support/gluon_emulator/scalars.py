"""Scalars of a kernel: 32-bit and 64-bit integers with C division, and fp32 numbers.

Plain Python numbers are compile-time constants, as in Gluon.
"""

import operator
from collections.abc import Callable

import numpy as np

from .errors import HazardError

_BOUND = {32: 2**31, 64: 2**63}


class Int32(int):
    """A 32-bit integer; a result that does not fit raises `HazardError`."""

    __slots__ = ()
    bits = 32

    def to(self, dtype):
        """Convert to another dtype."""
        return scalar(int(self), dtype)


class Int64(Int32):
    """A 64-bit integer."""

    __slots__ = ()
    bits = 64


class Float(float):
    """An fp32 number."""

    __slots__ = ()

    def to(self, dtype):
        """Convert to another dtype."""
        return scalar(float(self), dtype)

    def __neg__(self):
        return Float(-float(self))


class Double(float):
    """An fp64 number, with what the kernel does to such."""

    __slots__ = ()

    def to(self, dtype):
        """Convert to another dtype."""
        return scalar(float(self), dtype)

    def __add__(self, other):
        return Double(float(self) + float(other)) if isinstance(other, Double) else NotImplemented

    def __sub__(self, other):
        return Double(float(self) - float(other)) if isinstance(other, Double) else NotImplemented

    def __mul__(self, other):
        return Double(float(self) * other) if isinstance(other, int) else NotImplemented

    def exp(self) -> "Double":
        """Return e to the power of this number."""
        return Double(np.exp(float(self)))


def fp32(value: float) -> Float:
    """Round to fp32."""
    return Float(np.float32(value))


def integer(value: int, bits: int) -> Int32:
    """Return an integer of `bits` bits.

    Raises:
        HazardError: if it does not fit.
    """
    if not -_BOUND[bits] <= value < _BOUND[bits]:
        raise HazardError(f"int{bits} overflow: {value}")
    return Int64(value) if bits == 64 else Int32(value)


def width(value: int) -> int:
    """Return the bits of a runtime integer, or those that a constant needs."""
    return value.bits if isinstance(value, Int32) else 32 if -(2**31) <= value < 2**31 else 64


def scalar(value, dtype):
    """Return `value` as a scalar of `dtype`; floats become integers by truncation."""
    if dtype.kind == "f":
        return Double(value) if dtype.bits == 64 else fp32(value)
    if isinstance(value, float):
        if value != value or abs(value) >= _BOUND[dtype.bits]:
            raise HazardError(f"float {value} does not fit int{dtype.bits}")
        value = int(value)
    return integer(value, dtype.bits)


def runtime(value):
    """Return a constant as the scalar that the compiler makes of it; other values as they are."""
    if type(value) is int:
        return integer(value, width(value))
    return fp32(value) if type(value) is float else value


def truncated_div(a: int, b: int) -> int:
    """Divide as C does, towards zero."""
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


def kernel_range(*bounds: int) -> list[Int32]:
    """Return runtime integers, as a loop over `range` in a kernel has them."""
    bits = max(map(width, bounds))
    return [integer(i, bits) for i in range(*bounds)]


def _float_op(name: str, a: float, b: float) -> Float:
    return Float(getattr(np.float32(a), f"__{name}__")(np.float32(b)))


def _define(name: str, plain: Callable[[int, int], int], floats: bool) -> None:
    def of_ints(a, b):
        if isinstance(b, int):
            return integer(plain(int(a), int(b)), max(width(a), width(b)))
        return _float_op(name, a, b) if floats and isinstance(b, float) else NotImplemented

    def of_ints_reflected(a, b):
        if isinstance(b, int):
            return integer(plain(int(b), int(a)), max(width(a), width(b)))
        return _float_op(name, b, a) if floats and isinstance(b, float) else NotImplemented

    def of_floats(a, b):
        return _float_op(name, a, b) if isinstance(b, (int, float)) else NotImplemented

    def of_floats_reflected(a, b):
        return _float_op(name, b, a) if isinstance(b, (int, float)) else NotImplemented

    setattr(Int32, f"__{name}__", of_ints)
    setattr(Int32, f"__r{name}__", of_ints_reflected)
    if floats:
        setattr(Float, f"__{name}__", of_floats)
        setattr(Float, f"__r{name}__", of_floats_reflected)


def _no_integer_quotient(a: int, b: int) -> int:
    raise TypeError("`/` of two integers: use `//`")


for _name, _plain, _floats in (
    ("add", operator.add, True),
    ("sub", operator.sub, True),
    ("mul", operator.mul, True),
    ("truediv", _no_integer_quotient, True),
    ("floordiv", truncated_div, False),
    ("mod", lambda a, b: a - b * truncated_div(a, b), False),
    ("and", operator.and_, False),
    ("or", operator.or_, False),
    ("xor", operator.xor, False),
    ("lshift", operator.lshift, False),
    ("rshift", operator.rshift, False),
):
    _define(_name, _plain, _floats)


def _negate(a: Int32) -> Int32:
    return integer(-int(a), a.bits)


Int32.__neg__ = _negate  # type: ignore[assignment, method-assign]
