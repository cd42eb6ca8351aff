"""How many warps a kernel keeps on a multiprocessor, from what it takes and from its grid.

Kineto estimates that too, but gives 0 for kernels of more than 48 KiB of shared memory, which most fast ones
take. The rules are those of the CUDA programming guide, "Compute Capabilities", and of its occupancy
calculator.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from lightning_bench.profile.data import Kernel

_WARP = 32
_PARTITIONS = 4
_REGISTER_UNIT, _SHARED_UNIT = 256, 128
_RESERVED_SHARED_BYTES = 1024
"""Taken by CUDA for every block, from compute capability 8.0 on."""
_BLOCKS = {(7, 5): 16, (8, 6): 16, (8, 7): 16, (8, 9): 24}
"""Resident on a multiprocessor at most, where that is not 32."""


@dataclass(frozen=True)
class Gpu:
    """What the multiprocessors of a GPU hold."""

    multiprocessors: int
    warps: int
    """Of one multiprocessor, as all below."""
    blocks: int
    shared_bytes: int
    registers: int

    @classmethod
    def of(cls, properties: Any) -> Gpu:
        """From what ``torch.cuda.get_device_properties`` gives."""
        return cls(
            multiprocessors=properties.multi_processor_count,
            warps=properties.max_threads_per_multi_processor // _WARP,
            blocks=_BLOCKS.get((properties.major, properties.minor), 32),
            shared_bytes=properties.shared_memory_per_multiprocessor,
            registers=properties.regs_per_multiprocessor,
        )


def occupancy_percent(kernel: Kernel, gpu: Gpu) -> float | None:
    """Warps of the kernel on a multiprocessor over those that fit there, in percent.

    The mean over all multiprocessors while the first blocks run: a grid that is too small leaves some empty.
    None for what is no kernel, and where registers or sizes are not known.
    """
    if kernel.blocks is None or kernel.block is None or not kernel.registers or kernel.shared_bytes is None:
        return None
    warps = -(-(kernel.block[0] * kernel.block[1] * kernel.block[2]) // _WARP)
    of_a_warp = _up(kernel.registers * _WARP, _REGISTER_UNIT)
    by_registers = gpu.registers // _PARTITIONS // of_a_warp * _PARTITIONS // warps
    by_shared = gpu.shared_bytes // _up(kernel.shared_bytes + _RESERVED_SHARED_BYTES, _SHARED_UNIT)
    fitting = min(gpu.blocks, gpu.warps // warps, by_registers, by_shared)
    return 100.0 * warps * min(fitting, kernel.blocks / gpu.multiprocessors) / gpu.warps


def with_occupancy(kernels: Iterable[Kernel], gpu: Gpu) -> tuple[Kernel, ...]:
    """The kernels, each with its ``occupancy_percent``."""
    return tuple(one.model_copy(update={"occupancy_percent": occupancy_percent(one, gpu)}) for one in kernels)


def _up(size: int, unit: int) -> int:
    return -(-size // unit) * unit
