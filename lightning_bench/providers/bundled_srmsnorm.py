"""SimpleRMSNorm of lightning_kernels: the Triton kernel, and the formula in torch, eager and compiled."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar

from lightning_bench.case import Device, Direction, Shape
from lightning_bench.providers.bundled import BundledProvider, kernels_attribute
from lightning_bench.providers.registry.base import Inputs

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


class Srmsnorm(BundledProvider):
    """`lightning_kernels.simple_rms_norm` of the rows of v."""

    name = "srmsnorm"
    label = "SimpleRMSNorm (ours)"
    family = "norm"
    function = "simple_rms_norm"
    needs: ClassVar[tuple[str, ...]] = ("triton",)
    summary = "bundled Triton kernel, one pass over memory each way"

    def build(self, inputs: Inputs) -> Callable[[], Tensor]:
        """Return a call that computes the output, like v."""
        return partial(self._function(), inputs.v)

    def config(self, shape: Shape, direction: Direction) -> str:
        """Return the rows, the padded row length and the warps of one program."""
        return str(kernels_attribute("simple_rms_norm_config")(shape.value_dim))


class SrmsnormEager(Srmsnorm):
    """`lightning_kernels.simple_rms_norm_torch`: the official repository's baseline, in fp32."""

    name = "srmsnorm-eager"
    label = "SimpleRMSNorm (PyTorch)"
    function = "simple_rms_norm_torch"
    needs: ClassVar[tuple[str, ...]] = ()
    devices: ClassVar[tuple[Device, ...]] = ("cuda", "cpu")
    summary = "the formula in torch operations, eager; runs on the CPU too"

    def config(self, shape: Shape, direction: Direction) -> str:
        """Return "": torch operations have no configuration."""
        return ""


class SrmsnormCompiled(SrmsnormEager):
    """The same formula through `torch.compile`."""

    name = "srmsnorm-compiled"
    label = "SimpleRMSNorm (torch.compile)"
    needs = ("triton",)
    devices = ("cuda",)
    summary = "the formula through torch.compile"

    def build(self, inputs: Inputs) -> Callable[[], Tensor]:
        """Return a call that computes the output, like v; it compiles on its first run."""
        import torch
        from torch._dynamo import config as dynamo
        from torch._functorch import config as functorch

        # Protocol lbench repeats the backward pass, and a donated buffer may be used only once.
        functorch.donated_buffer = False
        # Each shape compiles again, with and without gradients: more often than dynamo's limit allows.
        dynamo.recompile_limit = max(dynamo.recompile_limit, 256)
        return partial(torch.compile(self._function(), fullgraph=True, dynamic=False), inputs.v)
