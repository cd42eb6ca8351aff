"""wgmma: products that run while their warps go on, until these wait for them."""

import torch

from .arrays import BFLOAT16, FLOAT16, FLOAT32, Tile, joined
from .errors import HazardError
from .shared import Shared


class Accumulator:
    """The result of a product in flight, which nothing but another product and a wait may take."""

    def __init__(self, result: Tile, reads: list) -> None:
        self.result, self.reads, self.done = result, reads, False

    def _refuse(self, *_):
        raise HazardError("an accumulator is used before warpgroup_mma_wait has named it")

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __neg__ = _refuse
    __getitem__ = to = _refuse

    @property
    def shape(self):
        """Return the shape."""
        return self.result.shape

    @property
    def dtype(self):
        """Return the dtype."""
        return self.result.dtype


class Products:
    """`warpgroup_mma` and `warpgroup_mma_wait`."""

    def __init__(self, machine) -> None:
        self._machine = machine

    def warpgroup_mma(self, a, b, acc, *, use_acc=True, is_async=False, **_hints):
        """Start a · b + acc; a is in registers or in shared memory, b in shared memory."""
        yield
        partition = self._machine.program.current
        if partition.warps % 4:
            raise HazardError(f"wgmma needs four warps each, {partition.name} has {partition.warps}")
        if isinstance(a, Accumulator):
            a._refuse()
        if not isinstance(b, Shared) or a.dtype is not b.dtype or a.dtype not in (FLOAT16, BFLOAT16):
            raise HazardError("wgmma takes fp16 or bf16 operands of one dtype, the second in shared memory")
        shape = [a.shape[0], b.shape[1]]
        if len(a.shape) != 2 or a.shape[1] != b.shape[0] or acc.shape != shape or acc.dtype is not FLOAT32:
            raise HazardError(f"wgmma of {a.shape} and {b.shape} into {acc.shape}")
        reads = [cell.read(partition, True) for x in (a, b) if isinstance(x, Shared) for cell in x.cells]
        origin = tuple(reads) if isinstance(a, Shared) else joined(a.reads, tuple(reads))
        values = _product(a.values if isinstance(a, Shared) else a.data, b.values)
        if use_acc:
            before = acc.result if isinstance(acc, Accumulator) else acc
            values = values + before.data
            origin = joined(tuple(read for read in before.reads if not read.used), origin)
        started = Accumulator(Tile(values, FLOAT32, origin), reads)
        partition.products.append(started)
        if is_async:
            yield
            return started
        _finish(partition, 0)
        yield
        return started.result

    def warpgroup_mma_wait(self, num_outstanding=0, deps=None):
        """Wait until so many products are left in flight and return `deps`, the finished ones as tiles."""
        yield
        if not deps:
            raise HazardError("warpgroup_mma_wait needs deps")
        _finish(self._machine.program.current, int(num_outstanding))
        results = tuple(x.result if isinstance(x, Accumulator) and x.done else x for x in deps)
        yield
        return results[0] if len(results) == 1 else results


def _product(a, b):
    """Multiply two fp32 arrays; torch, since it can be kept to one thread."""
    return torch.mm(torch.from_numpy(a), torch.from_numpy(b)).numpy()


def _finish(partition, left: int) -> None:
    while len(partition.products) > left:
        product = partition.products.pop(0)
        product.done = True
        tick = partition.tick()
        for read in product.reads:
            read.tick = tick
