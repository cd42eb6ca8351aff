"""The official kernels of package lightning-attn: Lightning Attention-2 and SimpleRMSNorm."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from lightning_bench.case import DTYPES, Direction, Family, Shape
from lightning_bench.providers.registry.base import Inputs, Provider

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

SPLIT_ABOVE = 128
SPLIT = 64
MAX_ELEMENTS = 2**31


class LightningOfficial(Provider):
    """`lightning_attn2(q, k, v, s)` as the published benchmark calls it: bhnd, s [h, 1, 1].

    For head_dim above 128 the package uses `lightning_attn_func`, which calls that kernel once for every
    64 of head_dim and adds the outputs; so does this provider.
    """

    name = "lightning-official"
    label = "Lightning Attention-2 (official)"
    family: ClassVar[Family] = "linear_decay"
    package = "lightning-attn"
    summary = "published Triton kernels, TF32 on fp32 casts"
    dtypes = DTYPES
    tf32 = True

    def load(self) -> None:
        """Import the package. Raise ImportError if it or Triton is broken."""
        import lightning_attn.ops  # noqa: F401

    def unsupported(self, shape: Shape, direction: Direction) -> str | None:
        """Return why the kernels do not support this case, or None.

        They address with unmasked `arange(dim)`, which needs powers of two, and with 32-bit offsets.
        """
        reason = super().unsupported(shape, direction)
        if reason:
            return reason
        if max(shape.q_elements, shape.o_elements) > MAX_ELEMENTS:
            return f"{self.name} addresses with 32-bit offsets: 2^31 elements a tensor at most"
        if shape.head_dim <= SPLIT_ABOVE:
            if not (_is_tile(shape.head_dim) and _is_tile(shape.value_dim)):
                return (
                    f"{self.name} takes powers of two from 16 on as head_dim and value_dim, "
                    f"not {_dims(shape)}"
                )
        elif not all(map(_is_tile, _pieces(shape.head_dim))) or shape.value_dim <= 16:
            return (
                f"{self.name} splits head_dim above {SPLIT_ABOVE} into pieces of {SPLIT}, "
                f"each a power of two from 16 on, with value_dim above 16, not {_dims(shape)}"
            )
        return None

    def build(self, inputs: Inputs) -> Callable[[], Tensor]:
        """Return a call that computes the output [b, h, n, value_dim]."""
        from lightning_attn import ops

        split = inputs.q.shape[-1] > SPLIT_ABOVE
        attend = ops.lightning_attn_func if split else ops.lightning_attn2
        return partial(attend, inputs.q, inputs.k, inputs.v, inputs.decay.view(-1, 1, 1))

    def config(self, shape: Shape, direction: Direction) -> str:
        """Return into how many calls head_dim is split; "" for one."""
        if shape.head_dim <= SPLIT_ABOVE:
            return ""
        return f"calls={len(_pieces(shape.head_dim))}"


class LightningOfficialNoDecay(LightningOfficial):
    """`lightning_attn2_no_decay(q, k, v)`; above head_dim 128 `lightning_attn_func` without slopes."""

    name = "lightning-official-no-decay"
    label = "Lightning Attention-2 without decay (official)"
    family = "linear"
    summary = "published Triton kernels without decay, TF32 on fp32 casts"

    def build(self, inputs: Inputs) -> Callable[[], Tensor]:
        """Return a call that computes the output [b, h, n, value_dim]."""
        from lightning_attn import ops

        split = inputs.q.shape[-1] > SPLIT_ABOVE
        attend = ops.lightning_attn_func if split else ops.lightning_attn2_no_decay
        return partial(attend, inputs.q, inputs.k, inputs.v)


class SrmsnormOfficial(Provider):
    """`SimpleRMSNorm` of lightning-attn. In fp16 it raises its eps to 1.6e-5."""

    name = "srmsnorm-official"
    label = "SimpleRMSNorm (official)"
    family = "norm"
    package = "lightning-attn"
    dtypes = DTYPES
    summary = "published Triton kernel, one row a program"

    def load(self) -> None:
        """Import the package. Raise ImportError if it or Triton is broken."""
        self._module()

    def build(self, inputs: Inputs) -> Callable[[], Tensor]:
        """Return a call that computes the output, like v."""
        return partial(self._module()(inputs.v.shape[-1]), inputs.v)

    def _module(self) -> Callable[..., Any]:
        from lightning_attn.ops.triton.srmsnorm import SimpleRMSNorm

        return SimpleRMSNorm  # type: ignore[no-any-return]


def _pieces(head_dim: int) -> list[int]:
    return [min(SPLIT, head_dim - start) for start in range(0, head_dim, SPLIT)]


def _is_tile(dim: int) -> bool:
    return dim >= 16 and dim & (dim - 1) == 0


def _dims(shape: Shape) -> str:
    return f"{shape.head_dim} and {shape.value_dim}"
