"""Provider, an implementation to measure, and Inputs, the tensors that it is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

from lightning_bench.case import Device, Direction, Dtype, Family, Layout, Shape
from lightning_bench.families import definition_of
from lightning_bench.variant import WHOLE

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_bench.providers.registry.decoding import AttentionCache, CacheSpec


@dataclass(frozen=True)
class Inputs:
    """Tensors in the provider's layout; `decay` holds the slopes s ≥ 0, fp32, [heads].

    In layout `bhnd`: q, k [batch, heads, seq_len, head_dim]; v [batch, heads, seq_len, value_dim].
    In layout `bnhd` heads and seq_len are exchanged. k and v may have fewer heads than q (`grouped_heads`).
    Where the tokens of each sequence lie on several ranks (`on_ranks`), these are the rank's own, and
    `rank_tokens` says how many each rank has, in their order; else it is empty.
    `more` holds the other inputs of the family, such as gates, by the names and axes of its definition in
    `lightning_bench.families`; `inputs["g"]` reads one. What a call updates in place is in a pool: for family
    `serving`, `inputs["state"]` is fp32 [slots, heads, head_dim, value_dim] (`turned_state`: of value_dim,
    head_dim), and `inputs["slots"]`, int32 [sequences], says which slot each sequence has. Of packed
    documents (`packs`) `cu_seqlens`, int32 [documents + 1] on the device, has the starts and the end; else it
    is None.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    decay: Tensor
    more: Mapping[str, Tensor] = field(default_factory=dict)
    cu_seqlens: Tensor | None = None
    rank_tokens: tuple[int, ...] = ()

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self.more[name] if name in self.more else getattr(self, name)
        return tensor

    def replaced(self, tensors: Mapping[str, Tensor]) -> Inputs:
        """Return the same inputs with other tensors under these names."""
        q, k, v, decay = (tensors.get(name, self[name]) for name in ("q", "k", "v", "decay"))
        more = {name: tensors.get(name, x) for name, x in self.more.items()}
        return replace(self, q=q, k=k, v=v, decay=decay, more=more)


class Provider:
    """One implementation. A subclass sets the class attributes and implements `load` and `build`.

    `name` is what users type, `label` what tables print. `package` is the distribution whose version
    `version()` returns. An instance has no state except what `load` imports.
    """

    name: ClassVar[str]
    label: ClassVar[str]
    family: ClassVar[Family]
    layout: ClassVar[Layout] = "bhnd"
    package: ClassVar[str]
    summary: ClassVar[str] = ""
    devices: ClassVar[tuple[Device, ...]] = ("cuda",)
    dtypes: ClassVar[tuple[Dtype, ...]] = ("fp16", "bf16")
    directions: ClassVar[tuple[Direction, ...]] = ("fwd", "bwd", "fwd_bwd")
    tf32: ClassVar[bool] = False
    """Whether it computes fp32 inputs in TF32, whose relative error is 1.5e-3 (measured on an H200)."""
    self_tuning: ClassVar[bool] = False
    """Whether each process may run another configuration, since an autotuner times several and takes one."""
    packs: ClassVar[bool] = False
    """Whether it takes packed documents: `Inputs.cu_seqlens`."""
    turned_state: ClassVar[bool] = False
    """Whether its pool of states is [slots, heads, value_dim, head_dim], in families that have one."""
    grouped_heads: ClassVar[bool] = False
    """Whether k and v may have fewer heads than q: query head i reads kv head i // (heads // kv_heads)."""
    on_ranks: ClassVar[bool] = False
    """Whether the tokens of a sequence may lie on the ranks of torch's default process group."""

    def version(self) -> str:
        """Return the installed version of the wrapped package, or "" without it. Imports nothing heavy."""
        from lightning_bench.providers.registry.packages import installed_version

        return installed_version(self.package)

    def unavailable(self, device: Device) -> str | None:
        """Return why it cannot run on this machine, or None; judged without importing the library."""
        from lightning_bench.providers.registry.packages import missing_device, missing_package

        return missing_device(self, device) or missing_package(self.package)

    def load(self) -> None:
        """Import the library. Raise ImportError, OSError or Unavailable; its message is the row's reason."""

    def unsupported(self, shape: Shape, direction: Direction) -> str | None:
        """Return why the library does not support this case, or None. Called after `load`."""
        if shape.dtype not in self.dtypes:
            return f"{self.name} takes {', '.join(self.dtypes)}, not {shape.dtype}"
        if shape.dtype == "fp32" and shape.device == "cuda" and self.tf32:
            return f"{self.name} computes fp32 in TF32, which is off by 1.5e-3: not an fp32 kernel"
        if direction not in self.directions:
            return f"{self.name} has no {direction} direction"
        return self._unsupported_ranks(shape) or self._unsupported_variant(shape)

    def _unsupported_ranks(self, shape: Shape) -> str | None:
        if not shape.is_split:
            return None
        if not self.on_ranks:
            return f"{self.name} takes whole sequences, on one device: no --ranks"
        if definition_of(self.family).own_inputs:
            return f"only q, k and v are divided among ranks, and family {self.family} has other inputs"
        if shape.seq_len < shape.ranks:
            return f"a rank would have no token: seq_len {shape.seq_len} on {shape.ranks} ranks"
        return None

    def _unsupported_variant(self, shape: Shape) -> str | None:
        variant = shape.variant
        if variant.documents and not self.packs:
            return f"{self.name} takes no packed documents (cu_seqlens)"
        if shape.group > 1 and not self.grouped_heads:
            return (
                f"{self.name} takes as many heads of k and v as of q, not {shape.kv_heads} for {shape.heads}"
            )
        if (variant.layer, variant.rank) != (WHOLE, WHOLE) and not definition_of(self.family).takes_slopes:
            return f"{self.name} takes no slopes: layer and rank change nothing"
        return None

    def build(self, inputs: Inputs) -> Callable[[], Tensor]:
        """Return a zero-argument callable that computes the output, shaped like v, in each call.

        The output must be differentiable with respect to every input that requires gradients: q, k and v,
        and the gates of families that have them.
        """
        raise NotImplementedError(f"provider {self.name} does not implement build()")

    def undecodable(self, shape: Shape) -> str | None:
        """Return why it cannot add to sequences token by token, as a model that generates does, or None."""
        return f"{self.name} computes whole sequences only: lbench knows no decoding step of it"

    def cache(self, spec: CacheSpec) -> AttentionCache:
        """Return what one layer of a model that generates keeps, empty; only if it can decode."""
        raise NotImplementedError(f"provider {self.name} does not implement cache()")

    def config(self, shape: Shape, direction: Direction) -> str:
        """Return the kernel configuration chosen for this case, for the row; "" if there is none."""
        return ""
