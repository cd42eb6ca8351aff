"""Where kernels can be launched, and the device to launch them on."""

from contextlib import AbstractContextManager, nullcontext

import torch
import triton
from torch import Tensor

_NOTHING = nullcontext()


def interpreted(kernel: object) -> bool:
    """Say whether TRITON_INTERPRET was set when `kernel` was defined, so that it runs on the CPU."""
    return not isinstance(kernel, triton.JITFunction)


def check_device(tensor: Tensor, kernel: object, name: str) -> None:
    """Check that the kernel can run where the tensor is.

    Raises:
        ValueError: for a tensor that is not on a GPU, unless the Triton interpreter is on.
    """
    if not tensor.is_cuda and not interpreted(kernel):
        raise ValueError(
            f"{name} needs tensors on a GPU, got {tensor.device}: use lightning_attn2_torch there, "
            "or set TRITON_INTERPRET=1 before the import to debug"
        )


def on_device(tensor: Tensor) -> AbstractContextManager[object]:
    """Make the tensor's GPU the current one for a launch, at no cost where it already is."""
    device = tensor.get_device()
    if device < 0 or device == torch.cuda.current_device():
        return _NOTHING
    return torch.cuda.device(device)
