"""The modules of Triton and Gluon that the kernel and its host code import, for an emulated device."""

from types import SimpleNamespace

import numpy as np

from . import arrays, memory, ptx, workspaces
from .arrays import FLOAT32, Tile, as_tile, joined
from .errors import HazardError
from .launch import JitFunction
from .memory import Pointer
from .products import Products
from .scalars import Double, Float, Int32, fp32, integer, runtime, truncated_div, width
from .shared import Shared, allocate
from .transfers import AsyncCopies, Barriers, Boxes


class Layout:
    """Any layout: where a value lies in registers changes nothing here."""

    def __init__(self, *arguments, **more) -> None:
        self.arguments, self.more = arguments, more

    @classmethod
    def get_default_for(cls, shape, dtype) -> "Layout":
        """Return a layout."""
        return cls(shape, dtype)


class Constexpr:
    """`gl.constexpr`: constants are plain Python values here."""

    def __new__(cls, value):
        """Return the value."""
        return value


class TensorDescriptor:
    """What the host describes a tensor by for TMA."""

    def __init__(self, base, shape, strides, block_shape, layout, padding="zero") -> None:
        self.base, self.shape, self.strides = base, shape, strides
        self.block_shape, self.layout, self.padding = block_shape, layout, padding


def aggregate(cls):
    """Check that the constructor of an aggregate sets the fields that are annotated, and no others."""
    fields = set(cls.__annotations__)
    plain = cls.__init__

    def construct(self, *arguments, **more):
        plain(self, *arguments, **more)
        missing = fields - set(vars(self))
        if missing:
            raise AttributeError(f"{cls.__name__} did not set {sorted(missing)}")

    def set_field(self, name, value):
        if name not in fields:
            raise AttributeError(f"{cls.__name__} has no field {name}")
        object.__setattr__(self, name, value)

    cls.__init__, cls.__setattr__ = construct, set_field
    return cls


def where(condition, a, b):
    """Choose by a tile, or by a scalar."""
    if not isinstance(condition, Tile):
        return runtime(a if condition else b)
    like = next((x for x in (a, b) if isinstance(x, Tile)), Tile(np.int64(0), arrays.INT32))
    a, b = as_tile(a, like), as_tile(b, like)
    if a.dtype is not b.dtype:
        raise TypeError(f"where of {a.dtype.name} and {b.dtype.name}")
    reads = joined(condition.reads, joined(a.reads, b.reads))
    return Tile(np.where(condition.data, a.data, b.data), a.dtype, reads)


def _extreme(of_tiles, of_scalars):
    def choose(a, b, **_hints):
        if isinstance(a, Tile) or isinstance(b, Tile):
            like = a if isinstance(a, Tile) else b
            a, b = as_tile(a, like), as_tile(b, like)
            return Tile(of_tiles(a.data, b.data), like.dtype, joined(a.reads, b.reads))
        if isinstance(a, float) or isinstance(b, float):
            return Float(of_tiles(np.float32(a), np.float32(b)))
        return integer(of_scalars(int(a), int(b)), max(width(a), width(b)))

    return choose


def cdiv(a, b):
    """Divide integers, rounding up."""
    if isinstance(a, Int32) or isinstance(b, Int32):
        return (a + (b - 1)) // b
    return truncated_div(a + b - 1, b)


def broadcast(a, b):
    """Broadcast two tiles to one shape."""
    x, y = np.broadcast_arrays(a.data, b.data)
    return Tile(x, a.dtype, a.reads), Tile(y, b.dtype, b.reads)


def largest(x, axis):
    """Return the maximum of a tile of one dim as a scalar."""
    if axis != 0 or x.data.ndim != 1:
        raise NotImplementedError("max along other dims")
    for read in x.reads:
        read.use()
    value = x.data.max().item()
    return fp32(value) if x.dtype.kind == "f" else integer(value, x.dtype.bits)


def arange(start, end, layout=None):
    """Return start … end − 1."""
    return Tile(np.arange(int(start), int(end), dtype=np.int64), arrays.INT32)


def full(shape, value, dtype, layout=None):
    """Return a tile of one value."""
    kind = np.float32 if dtype.kind == "f" else np.int64
    return Tile(np.full([int(dim) for dim in shape], value, kind), dtype)


def inline_asm_elementwise(asm, constraints, args, dtype, is_pure, pack):
    """Run inline assembly."""
    if len(constraints.split(",")) != len(args) + 1:
        raise HazardError(f"constraints {constraints} for {len(args)} arguments")
    if any(isinstance(x, Pointer) for x in args):
        return workspaces.run(asm, args)
    if all(not isinstance(x, Tile) for x in args):
        return fp32(ptx.run(asm, args, dtype).data)
    return ptx.run(asm, args, dtype)


def static_assert(condition, message=""):
    """Check a constant."""
    if not condition:
        raise AssertionError(message)


def static_range(*bounds):
    """Return constants, as an unrolled loop has them."""
    return range(*map(int, bounds))


def modules(machine) -> SimpleNamespace:
    """Return an emulated `triton`, whose attributes are the modules that kernels import."""

    def allocate_shared_memory(dtype, shape, layout, value=None, name="shared memory"):
        barriers = isinstance(layout, Barriers.MBarrierLayout)
        found = allocate(machine.program, dtype, shape, barriers, name)
        if value is not None:
            yield from found.store(value)
        return found

    def fence_async_shared(**_hints):
        partition = machine.program.current
        tick = partition.tick()
        for cell in machine.program.cells:
            cell.fence(partition, tick)
        for barrier in machine.program.barriers:
            barrier.fenced = True
        yield

    def warp_specialize(functions, warps, registers):
        names = ("state", "output", "loader") if len(functions) == 3 else map(str, range(len(functions)))
        counts = (machine.program.main.warps, *warps)
        machine.program.specialize([
            (name, int(count), function(*arguments))
            for name, count, (function, arguments) in zip(names, counts, functions, strict=True)
        ])  # fmt: skip

    def barrier(*_):
        yield

    dtypes = (
        arrays.INT1, arrays.INT32, arrays.INT64, FLOAT32, arrays.FLOAT64, arrays.FLOAT16, arrays.BFLOAT16,
    )  # fmt: skip
    language = SimpleNamespace(
        **{dtype.name: dtype for dtype in dtypes},
        constexpr=Constexpr, tensor=Tile, shared_memory_descriptor=Shared, pointer_type=Pointer,
        exp=Double.exp, tuple=tuple, static_range=static_range, static_assert=static_assert,
        minimum=_extreme(np.fmin, min), maximum=_extreme(np.fmax, max), max=largest, where=where, cdiv=cdiv,
        arange=arange, full=full, zeros=lambda shape, dtype, layout=None: full(shape, 0, dtype),
        zeros_like=lambda x: full(x.shape, 0, x.dtype), broadcast=broadcast,
        expand_dims=lambda x, axis: Tile(np.expand_dims(x.data, axis), x.dtype, x.reads),
        reshape=lambda x, shape: Tile(x.data.reshape(shape), x.dtype, x.reads),
        permute=lambda x, order: Tile(np.transpose(x.data, order), x.dtype, x.reads),
        convert_layout=lambda x, layout: x, inline_asm_elementwise=inline_asm_elementwise,
        load=memory.load, store=memory.store, program_id=lambda axis: integer(machine.program.number, 32),
        num_programs=lambda axis: integer(machine.grid[axis], 32),
        num_warps=lambda: machine.program.current.warps, barrier=barrier,
        allocate_shared_memory=allocate_shared_memory, warp_specialize=warp_specialize,
        NVMMASharedLayout=Layout, SharedLinearLayout=Layout, SwizzledSharedLayout=Layout,
        BlockedLayout=Layout, SliceLayout=Layout, DotOperandLayout=Layout, NVMMADistributedLayout=Layout,
        DistributedLinearLayout=Layout,
    )  # fmt: skip
    products = Products(machine)
    language.nvidia = SimpleNamespace(
        ampere=SimpleNamespace(async_copy=AsyncCopies(machine)),
        hopper=SimpleNamespace(
            mbarrier=Barriers(machine), tma=Boxes(machine), fence_async_shared=fence_async_shared,
            warpgroup_mma=products.warpgroup_mma, warpgroup_mma_wait=products.warpgroup_mma_wait,
        ),
    )  # fmt: skip
    gluon = SimpleNamespace(
        jit=lambda function=None, **options: JitFunction.decorate(machine, function, options),
        constexpr_function=lambda function: function,
        language=language,
        nvidia=SimpleNamespace(hopper=SimpleNamespace(TensorDescriptor=TensorDescriptor)),
    )
    return SimpleNamespace(
        experimental=SimpleNamespace(gluon=gluon),
        language=SimpleNamespace(core=SimpleNamespace(_aggregate=aggregate)),
    )
