"""The tensors that the providers of one shape share: seeded, normal, one set per layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import accumulate

import torch
from torch import Tensor

from lightning_bench.case import Distribution, Family, Layout, Shape
from lightning_bench.families import QKV, Spec, definition_of
from lightning_bench.families.definition import SLOTS
from lightning_bench.families.draw import Draw
from lightning_bench.measure.pools import StatePool
from lightning_bench.measure.signs import SignedTensor
from lightning_bench.providers.dtypes import torch_dtype
from lightning_bench.providers.registry.base import Inputs, Provider
from lightning_bench.variant import WHOLE


def decay_slopes(heads: int) -> Tensor:
    """Return the slopes of TransNormerLLM, s_i = 2^(−8(i+1)/heads): fp32, [heads], on the CPU.

    If heads is not a power of two, the slopes of the next lower power come first and every second slope of
    the next higher power follows (ALiBi, arXiv 2108.12409). They are written here and not taken from the
    bundled kernels: the judge must not share its inputs with the judged.
    """

    def powers(count: int) -> list[float]:
        return [2.0 ** (-8.0 * (i + 1) / count) for i in range(count)]

    lower = 2 ** (heads.bit_length() - 1)
    slopes = powers(lower) + powers(2 * lower)[0::2][: heads - lower]
    return torch.tensor(slopes, dtype=torch.float32)


def slopes_of(shape: Shape) -> Tensor:
    """Return the slopes that a shape's heads have: fp32, [heads], on the CPU.

    They are those of its rank among all heads, times 1 − layer/(layers − 1) + 1e-5 for a layer of several
    (TransNormerLLM, arXiv 2307.14995): the last layers hardly decay.
    """
    layer, rank = shape.variant.layer, shape.variant.rank
    slopes = decay_slopes(shape.heads * rank.count)[shape.heads * rank.index :][: shape.heads]
    return slopes if layer == WHOLE else slopes * (1 - layer.index / (layer.count - 1) + 1e-5)


_HASHED_AT_ONCE = 2**24


class InputSet:
    """q, k, v and the output's gradient for one shape, in every layout that is asked for.

    Values come from a seed, rounded to the shape's dtype. They are standard `normal`; or `large` or `small`,
    that times 4 or 1/64; or have `outliers`: one in a hundred is ten times larger, at unit variance.
    With `rank_tokens` they are one rank's part of sequences, of which each rank has so many tokens.
    The layouts hold the same values, each contiguous in its own order. `of` gives those of a family with its
    own inputs, which shares what it does not change.
    """

    def __init__(
        self,
        shape: Shape,
        seed: int,
        distribution: Distribution = "normal",
        rank_tokens: tuple[int, ...] = (),
    ) -> None:
        self.shape, self.distribution, self._rank_tokens = shape, distribution, rank_tokens
        generator = torch.Generator(device=shape.device).manual_seed(seed)
        dtype = torch_dtype(shape.dtype)

        def normal(dim: int, heads: int) -> Tensor:
            size = (shape.batch, heads, shape.seq_len, dim)
            x = torch.randn(size, generator=generator, device=shape.device, dtype=dtype)
            return _distributed(x, distribution, generator)

        self.q, self.k = normal(shape.head_dim, shape.heads), normal(shape.head_dim, shape.kv_heads)
        self.v, self.do = normal(shape.value_dim, shape.kv_heads), normal(shape.value_dim, shape.heads)
        self.decay = slopes_of(shape).to(shape.device)
        self.cu_seqlens = _cu_seqlens(shape)
        self.more: dict[str, Tensor] = {}
        self.gradients: tuple[str, ...] = ("q", "k", "v")
        self._seed = seed
        self._layouts: dict[Layout, tuple[Inputs, Tensor]] = {}
        self._signed: dict[Layout, tuple[SignedTensor, SignedTensor]] = {}
        self._families: dict[Family, InputSet] = {}
        self._hashes: dict[Layout, dict[str, int]] = {}

    def of(self, family: Family) -> InputSet:
        """Return the inputs of a family: these if it has none of its own, else those, made once and kept."""
        if not definition_of(family).own_inputs:
            return self
        if family not in self._families:
            self._families[family] = _FamilyInputs(self, family, self._seed)
        return self._families[family]

    def inputs(self, layout: Layout) -> Inputs:
        """Return leaf tensors, [b, h, n, d] or [b, n, h, d]; those of `gradients` require gradients."""
        return self.in_layout(layout)[0]

    def given(self, provider: Provider) -> Inputs:
        """Return the inputs that a provider of this family gets: what it updates in place is in a pool."""
        return self.inputs(provider.layout)

    def pool(self, provider: Provider) -> StatePool | None:
        """Return the pool that `given` has for a provider, None if the family updates nothing."""
        return None

    def grad_output(self, layout: Layout) -> Tensor:
        """Return the gradient that flows into the output, in the same layout."""
        return self.in_layout(layout)[1]

    def signed(self, layout: Layout) -> tuple[SignedTensor, SignedTensor]:
        """Return v and the gradient of the output as tensors whose signs change in place."""
        self.in_layout(layout)
        return self._signed[layout]

    def take(self, other: InputSet) -> None:
        """Replace all values in place by those of another set of the same shape, signs included."""
        self.own_signs()
        for layout, (leaves, do) in self._layouts.items():
            theirs, their_do = other.in_layout(layout)
            do.data.copy_(their_do)
            for name in ("q", "k", "v", "decay", *leaves.more):
                leaves[name].data.copy_(theirs[name].detach())
        for family, inputs in self._families.items():
            inputs.take(other.of(family))

    def roll(self, tokens: int) -> None:
        """Move the tokens of q, k and v in place, the last ones to the front: contents that are new."""
        done: set[int] = set()
        for leaves_of in (self._layouts, *(inputs.layouts for inputs in self._families.values())):
            for layout, (leaves, _) in leaves_of.items():
                for x in (leaves.q, leaves.k, leaves.v):
                    if x.data_ptr() not in done:
                        x.data.copy_(x.data.roll(tokens, 2 if layout == "bhnd" else 1))
                    done.add(x.data_ptr())

    def own_signs(self) -> None:
        """Give v and the gradient of the output their own signs back, in every layout."""
        for signed in self._signed.values():
            for x in signed:
                x.reset()
        for inputs in self._families.values():
            inputs.own_signs()

    def note_bytes(self, layout: Layout) -> None:
        """Take the bytes that tensors have now, at the first call for each, for those that they must have."""
        noted = self._hashes.setdefault(layout, {})
        noted |= {name: hash_of(x) for name, x in self._named(layout).items() if name not in noted}

    def written(self, layout: Layout) -> str | None:
        """Return a sentence that names the tensors whose bytes are not those that were noted, or None."""
        return changed_inputs(self._hashes[layout], self.hashes(layout))

    def hashes(self, layout: Layout) -> dict[str, int]:
        """Return a hash of the bytes of each tensor."""
        return {name: hash_of(x) for name, x in self._named(layout).items()}

    def aliased(self, result: Mapping[str, Tensor], layout: Layout) -> str | None:
        """Return which result is in the memory of which input, or None."""
        inputs = {x.untyped_storage().data_ptr(): name for name, x in self._named(layout).items()}
        for name, x in result.items():
            if x.numel() and (found := inputs.get(x.untyped_storage().data_ptr())) is not None:
                return f"{name} is in the memory of its input {found}"
        return None

    def _named(self, layout: Layout) -> dict[str, Tensor]:
        given, do = self.in_layout(layout)
        named = {"q": given.q, "k": given.k, "v": given.v, **given.more, "the slopes": given.decay}
        if given.cu_seqlens is not None:
            named["cu_seqlens"] = given.cu_seqlens
        return {name: x.detach() for name, x in {**named, "the gradient of o": do}.items()}

    @property
    def layouts(self) -> Mapping[Layout, tuple[Inputs, Tensor]]:
        """The leaves and the gradient of the output, in every layout that was asked for."""
        return self._layouts

    @property
    def held_bytes(self) -> int:
        """Bytes of all layouts made so far, those of families included."""
        once = sum(x.numel() * x.element_size() for x in (self.q, self.k, self.v, self.do))
        own = once * (1 + sum(layout != "bhnd" for layout in self._layouts))
        return own + sum(inputs.held_bytes for inputs in self._families.values())

    def in_layout(self, layout: Layout) -> tuple[Inputs, Tensor]:
        """Return the leaves and the gradient of the output, made at the first call for a layout."""
        if layout not in self._layouts:
            q, k, v, do = (_turned(x, QKV["q"], layout) for x in (self.q, self.k, self.v, self.do))
            leaves = Inputs(
                q.requires_grad_(),
                k.requires_grad_(),
                v.requires_grad_(),
                self.decay,
                cu_seqlens=self.cu_seqlens,
                rank_tokens=self._rank_tokens,
            )
            self._layouts[layout] = (leaves, do)
            turned = layout == "bnhd"
            self._signed[layout] = SignedTensor(v, turned=turned), SignedTensor(do, turned=turned)
        return self._layouts[layout]


class _FamilyInputs(InputSet):
    """What one family derives from the common inputs and adds to them."""

    def __init__(self, common: InputSet, family: Family, seed: int) -> None:
        self._common, self._definition = common, definition_of(family)
        shape, inputs = common.shape, self._definition.inputs
        tensors = (common.q, common.k, common.v, common.decay)
        draw = Draw(family, shape, seed, dict(self._definition.sizes), tensors)
        drawn = self._definition.make(draw)
        self._made: dict[str, Tensor] = {}
        for name, tensor in drawn.items():
            if name != "decay":
                wanted = inputs[name].dtype or shape.dtype
                dtype = torch.int64 if wanted == "int64" else torch_dtype(wanted)
                self._made[name] = tensor.to(dtype).contiguous()
        self.shape, self.distribution, self.do = shape, common.distribution, common.do
        self.q, self.k, self.v = (self._made.get(name, getattr(common, name)) for name in ("q", "k", "v"))
        self.decay = drawn["decay"].float() if "decay" in drawn else common.decay
        self.cu_seqlens = common.cu_seqlens
        self.more = {name: self._made[name] for name in inputs if name not in QKV}
        self.gradients = self._definition.gradients
        self._seed = seed
        self._layouts = {}
        self._signed = {}
        self._families = {}
        self._hashes = {}
        self._pools: dict[bool, StatePool] = {}

    def given(self, provider: Provider) -> Inputs:
        """Return the inputs that a provider of this family gets."""
        inputs, pool = self.inputs(provider.layout), self.pool(provider)
        if pool is None:
            return inputs
        (name,) = self._definition.updates
        return replace(inputs, more={**inputs.more, name: pool.states, SLOTS: pool.slots})

    def pool(self, provider: Provider) -> StatePool | None:
        """Return the pool in the order in which a provider holds states, made at the first call."""
        if not self._definition.updates:
            return None
        (name,) = self._definition.updates
        turned = provider.turned_state
        if turned not in self._pools:
            self._pools[turned] = StatePool(self._made[name], self.shape, self._seed, turned=turned)
        return self._pools[turned]

    def take(self, other: InputSet) -> None:
        """Replace all values in place by those of another set, those of pools included."""
        super().take(other)
        for pool in self._pools.values():
            pool.restore()

    def _named(self, layout: Layout) -> dict[str, Tensor]:
        pools = {name: x for pool in self._pools.values() for name, x in pool.untouched.items()}
        return {**super()._named(layout), **pools}

    def of(self, family: Family) -> InputSet:
        """Return the inputs of a family, this one or another."""
        return self._common.of(family)

    @property
    def held_bytes(self) -> int:
        """Bytes that are not those of the common inputs."""
        once = {name: x.numel() * x.element_size() for name, x in self._made.items()}
        turned = sum(size for name, size in once.items() if self._definition.inputs[name].turns)
        pools = sum(pool.states.numel() * pool.states.element_size() for pool in self._pools.values())
        return sum(once.values()) + turned * sum(layout != "bhnd" for layout in self._layouts) + pools

    def in_layout(self, layout: Layout) -> tuple[Inputs, Tensor]:
        """Return the same for the inputs of this family."""
        if layout not in self._layouts:
            shared, do = self._common.in_layout(layout)
            specs = self._definition.inputs
            constant = {name for name, spec in specs.items() if not spec.gradient}
            tensors = {name: shared[name].detach() if name in constant else shared[name] for name in QKV}
            for name, x in self._made.items():
                leaf = _turned(x, specs[name], layout)
                tensors[name] = leaf.requires_grad_(name in self.gradients)
            more = {name: tensors[name] for name in self.more}
            leaves = Inputs(
                tensors["q"], tensors["k"], tensors["v"], self.decay, more, cu_seqlens=self.cu_seqlens
            )
            self._layouts[layout] = (leaves, do)
            v, common_do = self._common.signed(layout)
            own_v = SignedTensor(tensors["v"], turned=layout == "bnhd") if "v" in self._made else v
            self._signed[layout] = own_v, common_do
        return self._layouts[layout]


def _cu_seqlens(shape: Shape) -> Tensor | None:
    """Return the starts and the end of packed documents, int32 [documents + 1]; None if there are none."""
    if not shape.variant.documents:
        return None
    ends = accumulate(shape.variant.documents, initial=0)
    return torch.tensor(list(ends), dtype=torch.int32, device=shape.device)


def _distributed(x: Tensor, distribution: Distribution, generator: torch.Generator) -> Tensor:
    if distribution == "outliers":
        chosen = torch.empty_like(x).bernoulli_(0.01, generator=generator)
        return x.mul_(1.0 + 9.0 * chosen).div_((1.0 + 0.01 * 99.0) ** 0.5)
    factors: dict[Distribution, float] = {"normal": 1.0, "large": 4.0, "small": 1 / 64}
    return x.mul_(factors[distribution])


def changed_inputs(before: Mapping[str, int], now: Mapping[str, int]) -> str | None:
    """Return a sentence that names the tensors whose hashes differ, or None."""
    changed = [name for name, value in now.items() if value != before[name]]
    return f"it changes its inputs: {', '.join(changed)}" if changed else None


def hash_of(x: Tensor) -> int:
    """Return a hash of a tensor's bytes in the order of its memory; unlike a sum it sees a permutation.

    Every 16 or 32 bits are multiplied by an odd number that their place gives, modulo 2^64.
    """
    flat = x.view(torch.int16 if x.element_size() == 2 else torch.int32).flatten()
    total = 0
    for index, part in enumerate(flat.split(_HASHED_AT_ONCE)):
        places = torch.arange(part.numel(), device=x.device, dtype=torch.int64)
        weights = (places * 0x5851F42D4C957F2D) ^ (places >> 7) | 1
        total = (total * 0x100000001B3 + int((part * weights).sum().item()) + index) % 2**64
    return total


def _turned(x: Tensor, spec: Spec, layout: Layout) -> Tensor:
    """Return a view of x in layout bhnd, or its copy in bnhd."""
    if layout == "bhnd" or not spec.turns:
        return x.detach()
    return x.transpose(spec.axes.index("h"), spec.axes.index("n")).contiguous()
