"""Definition: what a family computes, from which inputs, and what that costs at least. No torch at import."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from lightning_bench.case import DTYPE_BYTES, Shape

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from lightning_bench.families.draw import Draw

# Elements of q and v that one differentiation takes at once: 128 MiB of fp64, times what autograd keeps.
_ELEMENTS_AT_ONCE = 2**24


@dataclass(frozen=True)
class Spec:
    """One input tensor: ``axes`` in layout bhnd, its dtype, and whether a backward pass gives its gradient.

    Axes are ``b`` batch, ``h`` heads, ``n`` seq_len, ``d`` head_dim, ``e`` value_dim and those of the
    family's ``sizes``. ``h`` must be among them. Layout bnhd exchanges h and n where both are there.
    ``dtype`` is None for the case's own.
    """

    axes: str
    dtype: Literal["fp32", "int64"] | None = None
    gradient: bool = True

    def shape(self, shape: Shape, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Sizes in layout bhnd."""
        known = {
            "b": shape.batch,
            "h": shape.heads,
            "n": shape.seq_len,
            "d": shape.head_dim,
            "e": shape.value_dim,
        }
        return tuple({**known, **sizes}[axis] for axis in self.axes)

    @property
    def turns(self) -> bool:
        """Whether layout bnhd holds it in another order."""
        return "h" in self.axes and "n" in self.axes


QKV: dict[str, Spec] = {"q": Spec("bhnd"), "k": Spec("bhnd"), "v": Spec("bhne")}


@dataclass(frozen=True)
class Problem:
    """Inputs of an oracle in fp64, for P pairs of (batch, head).

    q, k [P, n, d]; v, do [P, n, e]; decay [P], the slopes s. ``more`` holds the family's other inputs, each
    with P in front of the axes that remain without b and h: ``bhn`` is [P, n], ``hd`` [P, d].
    """

    q: Tensor
    k: Tensor
    v: Tensor
    do: Tensor
    decay: Tensor
    more: Mapping[str, Tensor] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self.more[name] if name in self.more else getattr(self, name)
        return tensor

    def replaced(self, tensors: Mapping[str, Tensor]) -> Problem:
        """The same problem with other tensors under these names."""
        own = {name: x for name, x in tensors.items() if name not in self.more}
        more = {name: tensors.get(name, x) for name, x in self.more.items()}
        return replace(self, **own, more=more)

    def part(self, pairs: slice) -> Problem:
        """Some of its pairs."""
        names = ("q", "k", "v", "do", "decay", *self.more)
        return self.replaced({name: self[name][pairs] for name in names})


class Definition:
    """A family. Subclass, set the class attributes, write ``make``, ``output`` and ``flops``."""

    equation: ClassVar[str]
    """In one line, as docs/systems.md has it."""
    paper: ClassVar[str]
    """Where it is from: an arXiv number, or what else there is."""
    inputs: ClassVar[Mapping[str, Spec]] = QKV
    """What the operator reads, the slopes aside; gradients come in this order."""
    sizes: ClassVar[Mapping[str, int]] = {}
    """Lengths of axes that are the family's own."""
    own_inputs: ClassVar[bool] = True
    """Whether ``make`` changes or adds anything: False where q, k, v and the slopes of all serve."""

    @property
    def gradients(self) -> tuple[str, ...]:
        """Names of the inputs whose gradients a backward pass gives."""
        return tuple(name for name, spec in self.inputs.items() if spec.gradient)

    @property
    def whole_heads(self) -> bool:
        """Whether a gradient sums over the batch, so that a head is checked with all its sequences."""
        return any("b" not in self.inputs[name].axes for name in self.gradients)

    def make(self, draw: Draw) -> dict[str, Tensor]:
        """Realistic inputs in layout bhnd: those of ``inputs`` besides q, k, v, and what replaces these.

        ``decay`` [heads] where the slopes are the family's own. Any float dtype: they are rounded afterwards.
        """
        return {}

    def output(self, problem: Problem) -> Tensor:
        """o [P, n, e] in fp64 from the definition, differentiable; gates were activated before."""
        raise NotImplementedError(f"{type(self).__name__} does not implement output()")

    def solve(
        self, problem: Problem, *, gradients: bool, output_dtype: torch.dtype | None = None
    ) -> dict[str, Tensor]:
        """``o``, and where asked for ``dNAME`` of every input with a gradient, [P, ...], in fp64.

        The gradients are those of ``output`` by autograd, in fp64. ``output_dtype`` matters only to a family
        whose gradients start from the rounded output.
        """
        import torch

        pairs = problem.q.shape[0]
        step = max(1, _ELEMENTS_AT_ONCE // (problem.q[0].numel() + problem.v[0].numel()))
        parts: list[dict[str, Tensor]] = []
        for start in range(0, pairs, step):
            part = problem.part(slice(start, start + step))
            if not gradients:
                with torch.no_grad():
                    parts.append({"o": self.output(part)})
                continue
            leaves = {name: part[name].detach().clone().requires_grad_() for name in self.gradients}
            with torch.enable_grad():
                o = self.output(part.replaced(leaves))
            grads = torch.autograd.grad(o, list(leaves.values()), part.do)
            named = {f"d{name}": grad for name, grad in zip(leaves, grads, strict=True)}
            parts.append({"o": o.detach(), **named})
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def flops(self, shape: Shape) -> tuple[float, float]:
        """Operations of the cheapest exact form, (forward, backward); a multiply-add counts as two."""
        raise NotImplementedError(f"{type(self).__name__} does not implement flops()")

    def span(self, shape: Shape) -> int:
        """Keys that the oracle multiplies each query with, about: it decides how many pairs are checked."""
        return 256 + shape.head_dim

    def bytes_of(self, shape: Shape, names: Iterable[str]) -> int:
        """Return the bytes of these inputs, or of their gradients, which have the same sizes."""
        total = 0
        for name in names:
            spec = self.inputs[name]
            size = 8 if spec.dtype == "int64" else DTYPE_BYTES[spec.dtype or shape.dtype]
            for length in spec.shape(shape, self.sizes):
                size *= length
            total += size
        return total


def recurrent_flops(shape: Shape, products: int) -> tuple[float, float]:
    """Of a recurrence whose step takes ``products`` products of head_dim × value_dim.

    Backward each product has two for its gradients, and the state is made again: three times forward.
    """
    tokens = shape.batch * shape.heads * shape.seq_len
    fwd = float(tokens * products * 2 * shape.head_dim * shape.value_dim)
    return fwd, 3.0 * fwd
