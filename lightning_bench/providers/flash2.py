"""FlashAttention-2, package flash-attn."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from lightning_bench.case import Direction, Family, Shape
from lightning_bench.providers.registry.base import Inputs, Provider

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

KERNEL_DIMS = (32, 64, 96, 128, 192, 256)
"""The head dims that flash-attn 2.7 and later has kernels for; others run the next larger one."""

# void flash::run_mha_fwd_<cutlass::half_t, DIM, true>(Flash_fwd_params&, cudaStream_t)
_SYMBOL = "_ZN5flash12run_mha_fwd_IN7cutlass6half_tELi{}ELb1EEEvRNS_16Flash_fwd_paramsEP11CUstream_st"


class Flash2(Provider):
    """``flash_attn_func(q, k, v, causal=True)`` with the default scale 1/√head_dim: bnhd."""

    name = "flash2"
    label = "FlashAttention-2"
    family: ClassVar[Family] = "softmax"
    layout = "bnhd"
    package = "flash-attn"
    summary = "the CUDA kernels of package flash-attn, causal"
    causal: ClassVar[bool] = True

    _built_dims: frozenset[int] = frozenset()

    def load(self) -> None:
        """Import the package and find out for which head dims its extension was built.

        ImportError where the extension was built for another torch or CUDA.
        """
        from flash_attn import flash_attn_func  # noqa: F401

        extension = getattr(sys.modules.get("flash_attn_2_cuda"), "__file__", None)
        self._built_dims = built_dims(extension) if extension else frozenset()

    def unsupported(self, shape: Shape, direction: Direction) -> str | None:
        """Why this case is outside what the installed build does, or None.

        A build reduced to some head dims runs the nearest kernel it has for the others: beyond its
        largest it silently leaves out the rest of head_dim. Those are refused here.
        """
        reason = super().unsupported(shape, direction)
        if reason:
            return reason
        if shape.value_dim != shape.head_dim:
            return f"{self.name} needs value_dim = head_dim, not {shape.value_dim} and {shape.head_dim}"
        if shape.head_dim > KERNEL_DIMS[-1]:
            return f"{self.name} takes head_dim up to {KERNEL_DIMS[-1]}, not {shape.head_dim}"
        kernel = next(dim for dim in KERNEL_DIMS if dim >= shape.head_dim)
        if self._built_dims and kernel not in self._built_dims:
            built = ", ".join(map(str, sorted(self._built_dims)))
            return f"this build of flash-attn has kernels for head_dim {built} alone, not {shape.head_dim}"
        return None

    def build(self, inputs: Inputs) -> Callable[[], Tensor]:
        """A call that gives the output [b, n, h, head_dim]."""
        from flash_attn import flash_attn_func

        return partial(flash_attn_func, inputs.q, inputs.k, inputs.v, causal=self.causal)


class Flash2Full(Flash2):
    """The same without the causal mask, as the flash-linear-attention README timed it."""

    name = "flash2-full"
    label = "FlashAttention-2 (no mask)"
    family = "softmax_full"
    summary = "the CUDA kernels of package flash-attn, without the causal mask"
    causal = False


def built_dims(extension: str) -> frozenset[int]:
    """Head dims of the kernels that the already loaded shared library ``extension`` exports.

    Empty where it exports none under the name that flash-attn gives them: then nothing is known.
    """
    import ctypes

    library = ctypes.CDLL(extension)
    return frozenset(dim for dim in KERNEL_DIMS if hasattr(library, _SYMBOL.format(dim)))
