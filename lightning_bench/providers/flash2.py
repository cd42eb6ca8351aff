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

    from lightning_bench.providers.registry.decoding import AttentionCache, CacheSpec

KERNEL_DIMS = (32, 64, 96, 128, 192, 256)
"""The head dims of the kernels in flash-attn 2.7 and later; another head dim runs the next larger kernel."""

# void flash::run_mha_fwd_<cutlass::half_t, DIM, true>(Flash_fwd_params&, cudaStream_t)
_SYMBOL = "_ZN5flash12run_mha_fwd_IN7cutlass6half_tELi{}ELb1EEEvRNS_16Flash_fwd_paramsEP11CUstream_st"


class Flash2(Provider):
    """`flash_attn_func(q, k, v, causal=True)` with the default scale 1/√head_dim: bnhd."""

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

        Raise ImportError if the extension was built for another torch or CUDA.
        """
        from flash_attn import flash_attn_func  # noqa: F401

        extension = getattr(sys.modules.get("flash_attn_2_cuda"), "__file__", None)
        self._built_dims = built_dims(extension) if extension else frozenset()

    def unsupported(self, shape: Shape, direction: Direction) -> str | None:
        """Return why the installed build does not support this case, or None.

        A build reduced to some head dims runs its nearest kernel for the others, and above its largest head
        dim it silently ignores the rest of head_dim. These cases are refused here.
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
            return f"this build of flash-attn has kernels for head_dim {built} only, not {shape.head_dim}"
        return None

    def build(self, inputs: Inputs) -> Callable[[], Tensor]:
        """Return a call that computes the output [b, n, h, head_dim]."""
        from flash_attn import flash_attn_func

        return partial(flash_attn_func, inputs.q, inputs.k, inputs.v, causal=self.causal)

    def undecodable(self, shape: Shape) -> str | None:
        """Return why it cannot decode token by token, or None."""
        return None if self.causal else super().undecodable(shape)

    def cache(self, spec: CacheSpec) -> AttentionCache:
        """Return the keys and values of one layer."""
        from flash_attn import flash_attn_func, flash_attn_with_kvcache

        from lightning_bench.providers.kv_cache import FlashCache

        return FlashCache(partial(flash_attn_func, causal=True), flash_attn_with_kvcache, spec)


class Flash2Full(Flash2):
    """The same kernels without the causal mask, as the flash-linear-attention README timed them."""

    name = "flash2-full"
    label = "FlashAttention-2 (no mask)"
    family = "softmax_full"
    summary = "the CUDA kernels of package flash-attn, without the causal mask"
    causal = False


def built_dims(extension: str) -> frozenset[int]:
    """Return the head dims of the kernels that the already loaded shared library `extension` exports.

    The set is empty if it exports none under flash-attn's names: then the head dims are not known.
    """
    import ctypes

    library = ctypes.CDLL(extension)
    return frozenset(dim for dim in KERNEL_DIMS if hasattr(library, _SYMBOL.format(dim)))
