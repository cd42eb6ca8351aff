"""Occupancy: how many warps a kernel keeps on a multiprocessor, from its resources and its grid.

Kineto estimates it too, but gives 0 for kernels of more than 48 KiB of shared memory, which most fast kernels
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
"""Taken by CUDA for every block, since compute capability 8.0."""
_BLOCKS = {(7, 5): 16, (8, 6): 16, (8, 7): 16, (8, 9): 24}
"""Resident on a multiprocessor at most, if not 32."""


@dataclass(frozen=True)
class GpuLimits:
    """The resources of a GPU's multiprocessors."""

    multiprocessors: int
    warps: int
    """Per multiprocessor, as all below."""
    blocks: int
    shared_bytes: int
    registers: int

    @classmethod
    def of(cls, properties: Any) -> GpuLimits:
        """Return the limits in what `torch.cuda.get_device_properties` gives."""
        return cls(
            multiprocessors=properties.multi_processor_count,
            warps=properties.max_threads_per_multi_processor // _WARP,
            blocks=_BLOCKS.get((properties.major, properties.minor), 32),
            shared_bytes=properties.shared_memory_per_multiprocessor,
            registers=properties.regs_per_multiprocessor,
        )


def occupancy_percent(kernel: Kernel, gpu: GpuLimits) -> float | None:
    """Return the warps of the kernel on a multiprocessor over those that fit there, in percent.

    This is the mean over all multiprocessors while the first blocks run: a grid that is too small leaves
    some empty. None for copies and fills, and if registers or sizes are not known.
    """
    if kernel.blocks is None or kernel.block is None or not kernel.registers or kernel.shared_bytes is None:
        return None
    warps = -(-(kernel.block[0] * kernel.block[1] * kernel.block[2]) // _WARP)
    per_warp = _up(kernel.registers * _WARP, _REGISTER_UNIT)
    by_registers = gpu.registers // _PARTITIONS // per_warp * _PARTITIONS // warps
    by_shared = gpu.shared_bytes // _up(kernel.shared_bytes + _RESERVED_SHARED_BYTES, _SHARED_UNIT)
    fitting = min(gpu.blocks, gpu.warps // warps, by_registers, by_shared)
    return 100.0 * warps * min(fitting, kernel.blocks / gpu.multiprocessors) / gpu.warps


def with_occupancy(kernels: Iterable[Kernel], gpu: GpuLimits) -> tuple[Kernel, ...]:
    """Return the kernels, each with its `occupancy_percent`."""
    return tuple(
        kernel.model_copy(update={"occupancy_percent": occupancy_percent(kernel, gpu)}) for kernel in kernels
    )


def _up(size: int, unit: int) -> int:
    return -(-size // unit) * unit
