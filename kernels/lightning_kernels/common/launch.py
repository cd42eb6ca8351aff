"""Where kernels can be launched, the device to launch them on, and launches that go past triton's binding."""

from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
from torch import Tensor

from .private_torch import current_device
from .private_triton import LaunchGrid, direct_launch

MOST_LAUNCHES = 4096
"""More would be kept for ever by calls that each have a sequence length of their own."""
_MOST_SEQUENCES = 2**16 - 1
_NOTHING = nullcontext()


def interpreted(kernel: object) -> bool:
    """Say whether TRITON_INTERPRET was set when `kernel` was defined, so that it runs on the CPU."""
    return not isinstance(kernel, triton.JITFunction)


def check_device(tensor: Tensor, kernel: object, name: str, instead: str = "lightning_attn2_torch") -> None:
    """Check that the kernel can run where the tensor is.

    Raises:
        ValueError: for a tensor that is not on a GPU, unless the Triton interpreter is on.
    """
    if not tensor.is_cuda and not interpreted(kernel):
        raise ValueError(
            f"{name} needs tensors on a GPU, got {tensor.device}: use {instead} there, "
            "or set TRITON_INTERPRET=1 before the import to debug"
        )


def on_device(tensor: Tensor) -> AbstractContextManager[object]:
    """Make the tensor's GPU the current one for a launch, at no cost where it already is."""
    device = tensor.get_device()
    if device < 0 or device == current_device():
        return _NOTHING
    return torch.cuda.device(device)


def sequence_grid(programs: int, sequences: int) -> LaunchGrid:
    """Return the grid of a launch with so many programs for each sequence, one sequence after the other.

    Raises:
        ValueError: for more sequences than CUDA counts there.
    """
    if sequences > _MOST_SEQUENCES:
        raise ValueError(
            f"one call takes at most {_MOST_SEQUENCES} sequences, got {sequences}; give them in several calls"
        )
    return programs, sequences, 1


class Launches:
    """The launches of a triton kernel: the first of a kind through triton, the others past it.

    Triton binds and specialises every argument of every launch, which takes longer than a short kernel.
    Launches of one kind have tensors of the same dtypes, devices and alignments, and are equal in all else
    but for `scale`, a float.
    """

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel
        self._known: dict[Hashable, Callable[..., object]] = {}

    def __call__(
        self,
        grid: LaunchGrid,
        tensors: tuple[Tensor | None, ...],
        scale: float | None,
        rest: tuple[int | str, ...],
        options: tuple[tuple[str, int], ...],
    ) -> Callable[..., object]:
        """Launch the kernel on the device of the first tensor, and return what launches this kind again.

        Args:
            grid: the numbers of programs.
            tensors: the first arguments of the kernel.
            scale: the argument after them, if there is one.
            rest: all others, in order: ints, and the constants.
            options: of the launch, such as num_warps, by name.

        Returns:
            a function of all arguments of the kernel, for when the device of this launch is the current one.
        """
        kinds = [None if x is None else (x.dtype, x.get_device(), x.data_ptr() & 15) for x in tensors]
        key = grid, rest, options, *kinds
        first, floats = tensors[0], () if scale is None else (scale,)
        with _NOTHING if first is None else on_device(first):
            launch = self._known.get(key)
            if launch is not None:
                launch(*tensors, *floats, *rest)
                return launch
            named = dict(options)
            compiled = self._kernel[grid](*tensors, *floats, *rest, **named)
            if compiled is None:  # the interpreter, or a hook of triton's took the launch
                return lambda *arguments: self._kernel[grid](*arguments, **named)
            device = -1 if first is None else first.get_device()
            launch = direct_launch(self._kernel, named, compiled, grid, device)
            if len(self._known) >= MOST_LAUNCHES:
                self._known.clear()
            self._known[key] = launch
            return launch
