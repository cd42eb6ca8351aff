"""Everything that is used of triton's private interface: a new release is checked against this file.

tests/lightning_kernels/common/test_private_triton.py compares what reaches the driver with what triton sends.
"""

from collections.abc import Callable
from typing import Any

import triton

__all__ = ["KNOWN_VERSIONS", "LaunchGrid", "direct_launch", "version"]

LaunchGrid = tuple[int, int, int]
KNOWN_VERSIONS = ("3.6", "3.7")
"""Releases of triton whose launcher `direct_launch` calls itself."""
version = ".".join(triton.__version__.split(".")[:2])
"""That of the installed triton."""


def direct_launch(
    jit: Any, options: dict[str, int], kernel: Any, grid: LaunchGrid, device: int
) -> Callable[..., object]:
    """Return a function that launches a compiled kernel on the current stream, with a third of the host time.

    It takes all arguments of the kernel in order, constants too. What triton looks up for each launch is
    looked up once. It goes through triton where hooks are to be called, or where triton's settings that
    kernels are compiled for have changed since.

    Args:
        jit: the kernel as triton's decorator made it.
        options: what it was launched with besides its arguments, such as num_warps.
        kernel: what that launch returned.
        grid: the numbers of programs.
        device: index of the CUDA device that is current now and at each launch.

    Returns:
        triton's own `kernel[grid]` where this release is not among `KNOWN_VERSIONS`, or where the kernel
        needs memory that triton allocates for each launch.
    """
    launcher: Any = getattr(kernel, "run", None)
    if version not in KNOWN_VERSIONS or not _calls_driver(launcher):
        through_triton: Callable[..., object] = kernel[grid]
        return through_triton
    launch = launcher.launch
    x, y, z = grid
    stream_of = triton.runtime.driver.active.get_current_stream
    together = version != "3.6"  # the arguments are one tuple
    constant: tuple[object, ...]
    if together:
        described = launcher.arg_annotations, launcher.kernel_signature
        constant = (kernel.packed_metadata, None, None, None, None, None, *described)
    else:
        constant = (None, None, kernel.packed_metadata, None, None, None)
    constant = (kernel.function, launcher.launch_cooperative_grid, launcher.launch_pdl, *constant)
    runtime, compilation = triton.knobs.runtime, triton.knobs.compilation
    enter, leave = runtime.launch_enter_hook, runtime.launch_exit_hook
    debug, mode = runtime.debug, compilation.instrumentation_mode
    inspect = runtime.add_stages_inspection_hook

    def run(*arguments: object) -> object:
        if (
            runtime.launch_enter_hook is not enter
            or enter.calls
            or runtime.launch_exit_hook is not leave
            or leave.calls
            or runtime.debug != debug
            or compilation.instrumentation_mode != mode
            or runtime.add_stages_inspection_hook is not inspect
            or jit.pre_run_hooks
        ):
            return jit[grid](*arguments, **options)
        if together:
            return launch(x, y, z, stream_of(device), *constant, arguments)
        return launch(x, y, z, stream_of(device), *constant, *arguments)

    return run


def _calls_driver(launcher: Any) -> bool:
    """Say whether all that a launcher does is to call the driver, without memory of triton's."""
    return (
        hasattr(launcher, "launch") and not launcher.global_scratch_size and not launcher.profile_scratch_size
    )
