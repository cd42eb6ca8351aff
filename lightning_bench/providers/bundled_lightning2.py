"""The bundled Lightning Attention-2: Triton kernels with decay, without, as retention; and in PyTorch."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from lightning_bench.case import Direction, Shape
from lightning_bench.providers.bundled import BundledProvider, NoDecay, kernels_attribute
from lightning_bench.providers.dtypes import torch_dtype
from lightning_bench.providers.registry.base import Inputs

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from lightning_bench.providers.registry.decoding import AttentionCache, CacheSpec


class _Decoding(BundledProvider):
    """A function that also returns its final state, and the one that goes on from a state token by token."""

    decoding_step: ClassVar[str]

    def undecodable(self, shape: Shape) -> str | None:
        """Return why it cannot decode token by token, or None."""
        return None if self.family == "linear_decay" else super().undecodable(shape)

    def functions(self, metric: str) -> tuple[str, ...]:
        """Return the function, and that of a decoding step if the metric has such steps."""
        return (self.function, self.decoding_step) if metric == "generate" else (self.function,)

    def cache(self, spec: CacheSpec) -> AttentionCache:
        """Return the states of one layer."""
        from lightning_bench.providers.state_cache import StateCache

        return StateCache(self._function(), kernels_attribute(self.decoding_step), spec)


class Lightning2(_Decoding):
    """`lightning_kernels.lightning_attn2`: one pass over the sequence, state in registers."""

    name = "lightning2"
    label = "Lightning Attention-2 (ours)"
    summary = "bundled Triton kernels, one pass, bf16 into every dot and fp32 state"
    function = "lightning_attn2"
    decoding_step = "lightning_attn2_step"
    dims = (16, 256)
    needs = ("triton",)
    packs = True
    grouped_heads = True

    def config(self, shape: Shape, direction: Direction) -> str:
        """Return the kernel and the tiles chosen for this case; for fwd_bwd, those of the backward pass."""
        describe = kernels_attribute("lightning2_config")
        sequences = len(shape.variant.documents) or shape.batch
        chosen = describe(
            shape.head_dim,
            shape.value_dim,
            torch_dtype(shape.dtype),
            programs=sequences * shape.heads,
            seq_len=-(-shape.batch * shape.seq_len // sequences),
            backward=direction != "fwd",
        )
        return str(chosen)


class Lightning2NoDecay(NoDecay, Lightning2):
    """The same kernels with s = None: no decay."""

    name = "lightning2-no-decay"
    label = "Lightning Attention-2 without decay (ours)"
    summary = "bundled Triton kernels, one pass, no decay"


class Lightning2Retention(Lightning2):
    """The same kernels as retention: RetNet's decays are among the inputs, its scale is passed."""

    name = "lightning2-retention"
    label = "Retention (Lightning Attention-2, ours)"
    family = "retention"
    summary = "bundled Triton kernels with RetNet's decays and scale"

    def build(self, inputs: Inputs) -> Callable[[], Tensor]:
        """Return a call that computes the output [b, h, n, value_dim]."""
        scale = 1.0 / math.sqrt(inputs.q.shape[-1])
        given = {"scale": scale, **self._packed(inputs)}
        return partial(self._function(), inputs.q, inputs.k, inputs.v, inputs.decay, **given)


class _OnRanks(BundledProvider):
    """The same function with `cp`: each rank of the default process group has a part of each sequence."""

    on_ranks = True
    packs = False

    def unsupported(self, shape: Shape, direction: Direction) -> str | None:
        """Return why the function does not support this case, or None."""
        if not shape.is_split:
            plain = "lightning2" + self.name.removeprefix("context-parallel")
            return (
                f"{self.name} is {plain} on several ranks: `lbench speed --ranks 2` and the like measure it"
            )
        return super().unsupported(shape, direction)

    def config(self, shape: Shape, direction: Direction) -> str:
        """Return the kernel and the tiles chosen for the part of the rank with the most tokens."""
        return super().config(shape.of_rank(0), direction)

    def build(self, inputs: Inputs) -> Callable[[], Tensor]:
        """Return a call that computes this rank's part of the output [b, h, its tokens, value_dim]."""
        cp = kernels_attribute("ContextParallel")(lengths=inputs.rank_tokens)
        return partial(self._function(), inputs.q, inputs.k, inputs.v, inputs.decay, cp=cp)

    def undecodable(self, shape: Shape) -> str | None:
        """Return why it cannot decode token by token."""
        return f"{self.name} computes whole sequences only: a decoding step has one token"


class Lightning2OnRanks(_OnRanks, Lightning2):
    """`lightning_attn2` with `cp`."""

    name = "context-parallel"
    label = "Lightning Attention-2 on several GPUs (ours)"
    summary = "bundled Triton kernels, the tokens of each sequence on the GPUs of --ranks"


class Lightning2Torch(_Decoding):
    """`lightning_kernels.lightning_attn2_torch`: the same blocks in torch operations, on any device."""

    name = "lightning2-torch"
    label = "Lightning Attention-2 (PyTorch)"
    summary = "bundled block algorithm in torch operations; runs on the CPU too"
    function = "lightning_attn2_torch"
    decoding_step = "lightning_attn2_step_torch"
    devices = ("cuda", "cpu")
    packs = True
    grouped_heads = True


class Lightning2TorchOnRanks(_OnRanks, Lightning2Torch):
    """`lightning_attn2_torch` with `cp`."""

    name = "context-parallel-torch"
    label = "Lightning Attention-2 on several ranks (PyTorch)"
    summary = "bundled block algorithm in torch operations, on --ranks; runs on the CPU too, by gloo"


class Lightning2TorchNoDecay(NoDecay, Lightning2Torch):
    """The same operations with s = None: no decay."""

    name = "lightning2-no-decay-torch"
    label = "Lightning Attention-2 without decay (PyTorch)"
    summary = "bundled block algorithm in torch operations, no decay; runs on the CPU too"
