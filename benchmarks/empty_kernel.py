"""Kernels that do nothing: what events say of one beyond its own time is their cost around a kernel."""

from collections.abc import Callable

import torch
import triton

from lightning_bench.measure.device.cupti_trace import LaunchSize


@triton.jit
def empty_kernel(argument):  # type: ignore[no-untyped-def]
    """Do nothing; the argument is there as a kernel has some."""
    return


def empty_launch(size: LaunchSize) -> Callable[[], None]:
    """Return the launch, on the current stream, of a kernel that does nothing in a launch of that size."""
    kernel = torch.cuda._compile_kernel('extern "C" __global__ void nothing() {}', "nothing")
    kernel.set_shared_memory_config(size.shared_bytes)
    return lambda: kernel(grid=size.grid, block=size.block, shared_mem=size.shared_bytes)
