"""Calls that do nothing: what events say of one beyond CUPTI's span is their cost around a call."""

import ctypes
from collections.abc import Callable

import torch
import triton

from lightning_bench.measure.device.cupti_timer import TracedCall
from lightning_bench.measure.device.cupti_trace import LaunchSize


@triton.jit
def empty_kernel(argument):  # type: ignore[no-untyped-def]
    """Do nothing; the argument is there as a kernel has some."""
    return


def empty_like(call: TracedCall) -> Callable[[], None]:
    """Return a call that begins and ends with launches as large as those of `call` and does nothing."""
    first = _empty_launch(call.first)
    if call.activities == 1:
        return first
    last = _empty_launch(call.last)

    def both() -> None:
        first()
        last()

    return both


def _empty_launch(size: LaunchSize | None) -> Callable[[], None]:
    """Return the launch, on the current stream, of an empty kernel of that size; None: a fill of one word."""
    if size is None:
        word = torch.ones(1, dtype=torch.int32, device="cuda")
        fill = torch.cuda._utils._get_gpu_runtime_library().cuMemsetD32Async
        address, zero, one = ctypes.c_uint64(word.data_ptr()), ctypes.c_uint(0), ctypes.c_size_t(1)

        def launch() -> None:
            if code := fill(address, zero, one, torch.cuda.current_stream()._as_parameter_):
                raise RuntimeError(f"cuMemsetD32Async: CUDA error {code} at {word.data_ptr()}")

        return launch
    kernel = torch.cuda._compile_kernel('extern "C" __global__ void nothing() {}', "nothing")
    kernel.set_shared_memory_config(size.shared_bytes)
    return lambda: kernel(grid=size.grid, block=size.block, shared_mem=size.shared_bytes)
