"""The tensors that the providers of one shape share: seeded, normal, one set per layout."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_bench.case import Family, Layout, Shape
from lightning_bench.families import QKV, Spec, definition_of
from lightning_bench.families.draw import Draw
from lightning_bench.providers.dtypes import torch_dtype
from lightning_bench.providers.registry.base import Inputs


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


class InputSet:
    """q, k, v and the output's gradient for one shape, in every layout that is asked for.

    Values are standard normal from a fixed seed, rounded to the shape's dtype. The layouts hold the same
    values, each contiguous in its own order. `of` gives those of a family with its own inputs, which shares
    what it does not change.
    """

    def __init__(self, shape: Shape, seed: int) -> None:
        self.shape = shape
        generator = torch.Generator(device=shape.device).manual_seed(seed)
        dtype = torch_dtype(shape.dtype)

        def normal(dim: int) -> Tensor:
            size = (shape.batch, shape.heads, shape.seq_len, dim)
            return torch.randn(size, generator=generator, device=shape.device, dtype=dtype)

        self.q, self.k = normal(shape.head_dim), normal(shape.head_dim)
        self.v, self.do = normal(shape.value_dim), normal(shape.value_dim)
        self.decay = decay_slopes(shape.heads).to(shape.device)
        self.more: dict[str, Tensor] = {}
        self.gradients: tuple[str, ...] = ("q", "k", "v")
        self._seed = seed
        self._layouts: dict[Layout, tuple[Inputs, Tensor]] = {}
        self._families: dict[Family, InputSet] = {}

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

    def grad_output(self, layout: Layout) -> Tensor:
        """Return the gradient that flows into the output, in the same layout."""
        return self.in_layout(layout)[1]

    def checksums(self, layout: Layout) -> dict[str, float]:
        """Return a sum in fp64 of each tensor: it tells whether a provider has written to its inputs."""
        given, do = self.in_layout(layout)
        tensors = {"q": given.q, "k": given.k, "v": given.v, **given.more, "the gradient of o": do}
        return {name: x.detach().sum(dtype=torch.float64).item() for name, x in tensors.items()}

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
            leaves = Inputs(q.requires_grad_(), k.requires_grad_(), v.requires_grad_(), self.decay)
            self._layouts[layout] = (leaves, do)
        return self._layouts[layout]


class _FamilyInputs(InputSet):
    """What one family derives from the common inputs and adds to them."""

    def __init__(self, common: InputSet, family: Family, seed: int) -> None:
        self._common, self._definition = common, definition_of(family)
        shape, inputs = common.shape, self._definition.inputs
        draw = Draw(family, shape, seed, dict(self._definition.sizes), common.q, common.k, common.v)
        drawn = self._definition.make(draw)
        self._made: dict[str, Tensor] = {}
        for name, tensor in drawn.items():
            if name != "decay":
                wanted = inputs[name].dtype or shape.dtype
                dtype = torch.int64 if wanted == "int64" else torch_dtype(wanted)
                self._made[name] = tensor.to(dtype).contiguous()
        self.shape, self.do = shape, common.do
        self.q, self.k, self.v = (self._made.get(name, getattr(common, name)) for name in ("q", "k", "v"))
        self.decay = drawn["decay"].float() if "decay" in drawn else common.decay
        self.more = {name: self._made[name] for name in inputs if name not in QKV}
        self.gradients = self._definition.gradients
        self._seed = seed
        self._layouts = {}
        self._families = {}

    def of(self, family: Family) -> InputSet:
        """Return the inputs of a family, this one or another."""
        return self._common.of(family)

    @property
    def held_bytes(self) -> int:
        """Bytes that are not those of the common inputs."""
        once = {name: x.numel() * x.element_size() for name, x in self._made.items()}
        turned = sum(size for name, size in once.items() if self._definition.inputs[name].turns)
        return sum(once.values()) + turned * sum(layout != "bhnd" for layout in self._layouts)

    def in_layout(self, layout: Layout) -> tuple[Inputs, Tensor]:
        """Return the same for the inputs of this family."""
        if layout not in self._layouts:
            shared, do = self._common.in_layout(layout)
            tensors = {name: shared[name] for name in QKV}
            for name, x in self._made.items():
                leaf = _turned(x, self._definition.inputs[name], layout)
                tensors[name] = leaf.requires_grad_(name in self.gradients)
            more = {name: tensors[name] for name in self.more}
            leaves = Inputs(tensors["q"], tensors["k"], tensors["v"], self.decay, more)
            self._layouts[layout] = (leaves, do)
        return self._layouts[layout]


def _turned(x: Tensor, spec: Spec, layout: Layout) -> Tensor:
    """Return a view of x in layout bhnd, or its copy in bnhd."""
    if layout == "bhnd" or not spec.turns:
        return x.detach()
    return x.transpose(spec.axes.index("h"), spec.axes.index("n")).contiguous()
