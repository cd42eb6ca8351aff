"""`memory_efficient_attention` of xFormers: the papers' kernel, and the library's own choice."""

from __future__ import annotations

import ctypes
import json
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_bench.case import DTYPES, Direction, Shape
from lightning_bench.errors import Unavailable
from lightning_bench.providers.dtypes import torch_dtype
from lightning_bench.providers.registry.base import Inputs, Provider
from lightning_bench.providers.registry.packages import installed_version, load_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

CUDA12_RUNTIME = "libcudart.so.12"
CUDA12_PACKAGE = "nvidia-cuda-runtime-cu12"


class _Xformers(Provider):
    """`memory_efficient_attention` under LowerTriangularMask, default scale 1/√head_dim: bnhd."""

    family = "softmax"
    layout = "bnhd"
    package = "xformers"
    dtypes = DTYPES

    def load(self) -> None:
        """Import the package, with the CUDA 12 runtime that its wheel needs on a CUDA 13 torch.

        Raise Unavailable if its extension or the operator does not load: xFormers itself only warns.
        """
        if built_for_cuda12():
            provide_cuda12_runtime()
        try:
            import xformers
            from xformers.ops import fmha
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("flash_attn."):
                raise Unavailable(
                    "xformers mistakes the folder of flash-attn-4 for flash-attn and does not import; "
                    "install flash-attn too, or remove flash-attn-4"
                ) from error
            raise
        failure = xformers._cpp_lib._cpp_library_load_exception
        if failure is not None:
            while failure.__cause__ is not None:  # the loader's message is two wrappers down
                failure = failure.__cause__
            raise Unavailable(f"the extension of xformers did not load: {load_error(failure)}")
        self._check_operators(fmha)

    def unsupported(self, shape: Shape, direction: Direction) -> str | None:
        """Return why the library does not support this case, or None: rows must be aligned to 16 bytes."""
        reason = super().unsupported(shape, direction)
        if reason:
            return reason
        step = 4 if shape.dtype == "fp32" else 8
        for label, dim in (("head_dim", shape.head_dim), ("value_dim", shape.value_dim)):
            if dim % step:
                return f"{self.name} takes a {label} in steps of {step} in {shape.dtype}, not {dim}"
        return None

    def build(self, inputs: Inputs) -> Callable[[], Tensor]:
        """Return a call that computes the output [b, n, h, value_dim]."""
        import torch
        from xformers.ops import fmha

        mask, operators = fmha.attn_bias.LowerTriangularMask(), self._operators(fmha)
        attend, grad_enabled = fmha.memory_efficient_attention, torch.is_grad_enabled
        trained = (inputs.q, inputs.k, inputs.v)
        # The library computes the log-sum-exp whenever inputs require gradients, no_grad or not.
        plain = tuple(tensor.detach() for tensor in trained)

        def forward() -> Tensor:
            q, k, v = trained if grad_enabled() else plain
            output: Tensor = attend(q, k, v, attn_bias=mask, op=operators)
            return output

        return forward

    def _operators(self, fmha: Any) -> Any:
        """Return the pair of forward and backward operators, or None for the library's own choice."""
        return None

    def _check_operators(self, fmha: Any) -> None:
        """Raise Unavailable if this build lacks an operator that is requested."""


class XformersCutlass(_Xformers):
    """The memory-efficient kernel of the papers: `op=(fmha.cutlass.FwOp, fmha.cutlass.BwOp)`.

    In xFormers 0.0.35 these operators are torch's copy of that kernel, which `sdpa-efficient` runs too.
    """

    name = "xformers"
    label = "xFormers (memory-efficient)"
    summary = "the CUTLASS kernel of the papers, in bnhd; today torch's copy of it"

    def _operators(self, fmha: Any) -> Any:
        return (fmha.cutlass.FwOp, fmha.cutlass.BwOp)

    def _check_operators(self, fmha: Any) -> None:
        missing = [operator.NAME for operator in self._operators(fmha) if not operator.is_available()]
        if missing:
            raise Unavailable(f"this build of xformers has no operator {' and '.join(missing)}")


class XformersAuto(_Xformers):
    """The default of xFormers: the library dispatches, on recent GPUs to FlashAttention."""

    name = "xformers-auto"
    label = "xFormers (default dispatch)"
    summary = "the kernel that xFormers chooses by itself"

    def version(self) -> str:
        """Return the version of xFormers, and that of the flash-attn to which it dispatches if installed."""
        version, flash = super().version(), installed_version("flash-attn")
        return f"{version}+flash-attn-{flash}" if version and flash else version

    def config(self, shape: Shape, direction: Direction) -> str:
        """Return the forward operator that the library picks for such inputs; "" if that is not known."""
        import torch
        from xformers.ops import fmha

        def rows(dim: int) -> Any:
            return torch.empty((1, 2, 1, dim), dtype=torch_dtype(shape.dtype), device=shape.device)

        q, k, v = rows(shape.head_dim), rows(shape.head_dim), rows(shape.value_dim)
        mask = fmha.attn_bias.LowerTriangularMask()
        try:
            inputs = fmha.Inputs(query=q, key=k, value=v, attn_bias=mask)
            return f"op={fmha._dispatch_fw(inputs, direction != 'fwd').NAME}"
        except (AttributeError, NotImplementedError):
            return ""


def built_for_cuda12() -> bool:
    """Return whether the installed xFormers was built against CUDA 12 and torch against another CUDA."""
    import torch

    spec = find_spec("xformers")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        build = Path(folder) / "cpp_lib.json"
        if build.is_file():
            cuda = json.loads(build.read_text())["version"]["cuda"]
            torch_cuda = torch.version.cuda or ""
            return bool(cuda) and int(cuda) // 100 == 12 and not torch_cuda.startswith("12.")
    return False


def provide_cuda12_runtime() -> None:
    """Load libcudart.so.12 globally, from the loader's path or its wheel. Raise Unavailable without it."""
    try:
        ctypes.CDLL(CUDA12_RUNTIME, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        library = cuda12_runtime()
        if library is None:
            raise Unavailable(
                f"xformers is built for CUDA 12 and torch is not: it needs {CUDA12_RUNTIME}; "
                f"pip install {CUDA12_PACKAGE}"
            ) from None
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


def cuda12_runtime() -> Path | None:
    """Return where nvidia-cuda-runtime-cu12 installed libcudart.so.12, or None if it is not installed."""
    try:
        files = metadata.files(CUDA12_PACKAGE) or []
    except metadata.PackageNotFoundError:
        files = []
    candidates = [Path(str(file.locate())) for file in files if file.name == CUDA12_RUNTIME]
    spec = find_spec("nvidia")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        candidates.append(Path(folder) / "cuda_runtime" / "lib" / CUDA12_RUNTIME)
    return next((path for path in candidates if path.is_file()), None)
