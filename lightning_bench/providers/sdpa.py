"""`scaled_dot_product_attention` of torch, restricted to one of its kernels at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from lightning_bench.case import DTYPES, Direction, Dtype, Family, Shape
from lightning_bench.providers.registry.base import Inputs, Provider

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from lightning_bench.providers.registry.decoding import AttentionCache, CacheSpec


class _Sdpa(Provider):
    """Causal SDPA with the default scale 1/√head_dim under `sdpa_kernel` of one backend: bhnd.

    Each forward call enters the context again (the backward follows the recorded node), which adds about
    10 µs to the call time and nothing to the GPU time.
    """

    family: ClassVar[Family] = "softmax"
    causal: ClassVar[bool] = True
    package = "torch"
    backend: ClassVar[str]
    cuda_dtypes: ClassVar[tuple[Dtype, ...]] = DTYPES
    max_dim: ClassVar[int | None] = None
    """Largest head_dim and value_dim on a GPU; None for no limit."""
    steps: ClassVar[Mapping[Dtype, int]] = {}
    """By dtype, the number of which head_dim and value_dim must be multiples on a GPU."""
    equal_dims: ClassVar[bool] = False
    no_mask: ClassVar[str] = ""
    """Why it cannot read a cache on a GPU, of which a mask tells what is filled; "" if it can."""

    def load(self) -> None:
        """Import torch and look up the backend. Raise ImportError if this torch has none of that name."""
        self._backend()

    def unsupported(self, shape: Shape, direction: Direction) -> str | None:
        """Return why the backend does not support this case, or None; torch itself only warns."""
        reason = super().unsupported(shape, direction)
        if reason:
            return reason
        if self.equal_dims and shape.value_dim != shape.head_dim:
            return f"{self.name} needs value_dim = head_dim, not {shape.value_dim} and {shape.head_dim}"
        return self._cuda_limit(shape) if shape.device == "cuda" else None

    def build(self, inputs: Inputs) -> Callable[[], Tensor]:
        """Return a call that computes the output [b, h, n, value_dim].

        The call raises RuntimeError if the backend refuses the inputs.
        """
        from torch.nn.attention import sdpa_kernel
        from torch.nn.functional import scaled_dot_product_attention

        backend, (q, k, v) = self._backend(), (inputs.q, inputs.k, inputs.v)

        def forward() -> Tensor:
            with sdpa_kernel(backend):
                return scaled_dot_product_attention(q, k, v, is_causal=self.causal)

        return forward

    def undecodable(self, shape: Shape) -> str | None:
        """Return why it cannot decode token by token, or None."""
        return self.no_mask if shape.device == "cuda" and self.no_mask else None

    def cache(self, spec: CacheSpec) -> AttentionCache:
        """Return the keys and values of one layer."""
        from torch.nn.attention import sdpa_kernel

        from lightning_bench.providers.kv_cache import SdpaCache

        backend = self._backend()
        return SdpaCache(
            lambda q, k, v: self.build(Inputs(q, k, v, spec.slopes))(), lambda: sdpa_kernel(backend), spec
        )

    def _backend(self) -> Any:
        from torch.nn.attention import SDPBackend

        try:
            return getattr(SDPBackend, self.backend)
        except AttributeError as error:
            raise ImportError(f"this torch has no SDPA backend {self.backend}") from error

    def _cuda_limit(self, shape: Shape) -> str | None:
        """Return what torch's checks refuse on every GPU; checks that depend on the GPU fail in the run."""
        if shape.dtype not in self.cuda_dtypes:
            return f"{self.name} takes {', '.join(self.cuda_dtypes)} on cuda, not {shape.dtype}"
        step = self.steps.get(shape.dtype, 1)
        for label, dim in (("head_dim", shape.head_dim), ("value_dim", shape.value_dim)):
            if self.max_dim is not None and dim > self.max_dim:
                return f"{self.name} takes a {label} up to {self.max_dim}, not {dim}"
            if dim % step:
                return f"{self.name} takes a {label} in steps of {step} in {shape.dtype}, not {dim}"
        return None


class SdpaFlash(_Sdpa):
    """torch's FlashAttention-2; on the CPU, torch's own kernel of that name."""

    name = "sdpa-flash"
    label = "SDPA (flash)"
    summary = "torch's FlashAttention-2; a CPU kernel too"
    devices = ("cuda", "cpu")
    dtypes = DTYPES
    backend = "FLASH_ATTENTION"
    cuda_dtypes = ("fp16", "bf16")
    max_dim = 256
    equal_dims = True
    no_mask = "sdpa-flash takes no mask on a GPU, by which a step would know what of its cache is filled"


class SdpaCudnn(_Sdpa):
    """cuDNN's fused attention; which head dims above 128 it takes depends on GPU and cuDNN."""

    name = "sdpa-cudnn"
    label = "SDPA (cuDNN)"
    summary = "cuDNN's fused attention through torch"
    backend = "CUDNN_ATTENTION"
    cuda_dtypes = ("fp16", "bf16")
    max_dim = 256
    steps: ClassVar[Mapping[Dtype, int]] = {"fp16": 8, "bf16": 8}
    no_mask = "sdpa-cudnn takes no single query, which a decoding step has"

    def unsupported(self, shape: Shape, direction: Direction) -> str | None:
        """Return why the backend does not support this case, or None."""
        reason = super().unsupported(shape, direction)
        if reason is None and shape.seq_len == 1:
            return f"{self.name} does not take seq_len 1"
        return reason

    def config(self, shape: Shape, direction: Direction) -> str:
        """Return the version of cuDNN, which is installed separately from torch."""
        import torch

        cudnn: Any = torch.backends.cudnn
        version = cudnn.version()
        return f"cudnn={version}" if version else ""


class SdpaEfficient(_Sdpa):
    """The memory-efficient CUTLASS kernel that torch took over from xFormers."""

    name = "sdpa-efficient"
    label = "SDPA (memory-efficient)"
    summary = "torch's memory-efficient CUTLASS kernel"
    dtypes = DTYPES
    backend = "EFFICIENT_ATTENTION"
    steps: ClassVar[Mapping[Dtype, int]] = {"fp32": 4, "fp16": 8, "bf16": 8}


class SdpaMath(_Sdpa):
    """Matrix products and a softmax, with the whole [n, n] of scores in memory."""

    name = "sdpa-math"
    label = "SDPA (math)"
    summary = "unfused: scores in memory; every device, dtype and dim"
    devices = ("cuda", "cpu")
    dtypes = DTYPES
    backend = "MATH"


class SdpaMathFull(SdpaMath):
    """The same kernel without the causal mask."""

    name = "sdpa-math-full"
    label = "SDPA (math, no mask)"
    family = "softmax_full"
    summary = "unfused and without the causal mask; every device, dtype and dim"
    causal = False
