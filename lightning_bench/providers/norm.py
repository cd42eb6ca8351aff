"""SimpleRMSNorm: the bundled kernel, the official one, and PyTorch's ways to the same result."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from lightning_bench.case import DTYPES, Device, Direction, Shape
from lightning_bench.providers.bundled import BundledProvider, kernels_attribute
from lightning_bench.providers.registry.base import Inputs, Provider

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


class Srmsnorm(BundledProvider):
    """``lightning_kernels.simple_rms_norm`` of the rows of v."""

    name = "srmsnorm"
    label = "SimpleRMSNorm (ours)"
    family = "norm"
    function = "simple_rms_norm"
    needs: ClassVar[tuple[str, ...]] = ("triton",)
    summary = "bundled Triton kernel, one pass over memory each way"

    def build(self, inputs: Inputs) -> Callable[[], Tensor]:
        """A call that gives the output, like v."""
        return partial(self._function(), inputs.v)

    def config(self, shape: Shape, direction: Direction) -> str:
        """Rows, padded row and warps of a program."""
        return str(kernels_attribute("simple_rms_norm_config")(shape.value_dim))


class SrmsnormEager(Srmsnorm):
    """``lightning_kernels.simple_rms_norm_torch``: what the official repository compares with, in fp32."""

    name = "srmsnorm-eager"
    label = "SimpleRMSNorm (PyTorch)"
    function = "simple_rms_norm_torch"
    needs: ClassVar[tuple[str, ...]] = ()
    devices: ClassVar[tuple[Device, ...]] = ("cuda", "cpu")
    summary = "the formula in torch operations, eager; runs on the CPU too"

    def config(self, shape: Shape, direction: Direction) -> str:
        """Nothing to tell."""
        return ""


class SrmsnormCompiled(SrmsnormEager):
    """The same through ``torch.compile``."""

    name = "srmsnorm-compiled"
    label = "SimpleRMSNorm (torch.compile)"
    needs = ("triton",)
    devices = ("cuda",)
    summary = "the formula through torch.compile"

    def build(self, inputs: Inputs) -> Callable[[], Tensor]:
        """A call that gives the output, like v; it compiles on its first run."""
        import torch
        from torch._dynamo import config as dynamo
        from torch._functorch import config as functorch

        # Protocol lbench runs a backward pass again and again; donated buffers may be used but once.
        functorch.donated_buffer = False
        # Each shape compiles anew, forward and with gradients: more often than dynamo takes for a mistake.
        dynamo.recompile_limit = max(dynamo.recompile_limit, 256)
        return partial(torch.compile(self._function(), fullgraph=True, dynamic=False), inputs.v)


class SrmsnormOfficial(Provider):
    """``SimpleRMSNorm`` of lightning-attn. In fp16 it raises its eps to 1.6e-5."""

    name = "srmsnorm-official"
    label = "SimpleRMSNorm (official)"
    family = "norm"
    package = "lightning-attn"
    dtypes = DTYPES
    summary = "published Triton kernel, one row a program"

    def load(self) -> None:
        """Import the package; ImportError where it or Triton is broken."""
        self._module()

    def build(self, inputs: Inputs) -> Callable[[], Tensor]:
        """A call that gives the output, like v."""
        return partial(self._module()(inputs.v.shape[-1]), inputs.v)

    def _module(self) -> Callable[..., Any]:
        from lightning_attn.ops.triton.srmsnorm import SimpleRMSNorm

        return SimpleRMSNorm  # type: ignore[no-any-return]


class RmsNormTorch(Provider):
    """``torch.nn.functional.rms_norm`` without a weight, eps 1e-6."""

    name = "rms-norm-torch"
    label = "F.rms_norm"
    family = "norm"
    package = "torch"
    devices = ("cuda", "cpu")
    dtypes = DTYPES
    summary = "torch.nn.functional.rms_norm without a weight"

    def build(self, inputs: Inputs) -> Callable[[], Tensor]:
        """A call that gives the output, like v."""
        from torch.nn.functional import rms_norm

        return partial(rms_norm, inputs.v, (inputs.v.shape[-1],), None, 1e-6)
