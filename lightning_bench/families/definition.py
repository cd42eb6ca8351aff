"""Definition: what a family computes, from which inputs, and its least work. Does not import torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from lightning_bench.case import DTYPE_BYTES, Shape
from lightning_bench.families.spec import QKV, Spec

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from lightning_bench.families.draw import Draw

# Elements of q and v in one differentiation: 128 MiB of fp64, and several times that for what autograd keeps.
_ELEMENTS_AT_ONCE = 2**24


SLOTS = "slots"
"""The argument that says where in a pool the states are which a call updates."""


@dataclass(frozen=True)
class Problem:
    """Inputs of an oracle in fp64, for P pairs of (batch, head).

    q, k [P, n, d]; v, do [P, n, e]; decay [P], the slopes s. `more` holds the family's other inputs. In each
    the axes b and h are replaced by P in front: `bhn` is [P, n], `hd` is [P, d]. `documents` are the lengths
    of packed sequences, each of which starts anew; none if the n tokens are one.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    do: Tensor
    decay: Tensor
    more: Mapping[str, Tensor] = field(default_factory=dict)
    documents: tuple[int, ...] = ()

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self.more[name] if name in self.more else getattr(self, name)
        return tensor

    def replaced(self, tensors: Mapping[str, Tensor]) -> Problem:
        """Return the same problem with other tensors under these names."""
        own: dict[str, Any] = {name: x for name, x in tensors.items() if name not in self.more}
        more = {name: tensors.get(name, x) for name, x in self.more.items()}
        return replace(self, **own, more=more)

    def part(self, pairs: slice) -> Problem:
        """Return the problem of some of the pairs."""
        return self.replaced({name: self[name][pairs] for name in self.names})

    def unpacked(self) -> Problem:
        """Return the same problem of one sequence."""
        return replace(self, documents=())

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all tensors."""
        return "q", "k", "v", "do", "decay", *self.more


class Definition:
    """A family. A subclass sets the class attributes and implements `make`, `output` and `flops`."""

    equation: ClassVar[str]
    """The definition in one line, as docs/systems.md has it."""
    paper: ClassVar[str]
    """The source: an arXiv number."""
    inputs: ClassVar[Mapping[str, Spec]] = QKV
    """The inputs of the operator without the slopes; gradients come in this order."""
    sizes: ClassVar[Mapping[str, int]] = {}
    """Lengths of the axes that only this family has."""
    odd_in_v: ClassVar[bool] = True
    """Whether the sign of a column of v changes that of the same column of o, and nothing else."""
    takes_slopes: ClassVar[bool] = False
    """Whether the operator takes the slopes s [heads], fp32, as an input: a constant, without a gradient."""
    updates: ClassVar[tuple[str, ...]] = ()
    """Inputs that a call updates in place, without a gradient: a result of their name has what it leaves."""
    own_inputs: ClassVar[bool] = True
    """Whether `make` changes or adds an input; False if the common q, k, v and slopes are enough."""

    @property
    def gradients(self) -> tuple[str, ...]:
        """Names of the inputs whose gradients a backward pass computes."""
        return tuple(name for name, spec in self.inputs.items() if spec.gradient)

    @property
    def arguments(self) -> tuple[str, ...]:
        """Names of all inputs of the operator, in the order in which a plain function gets them."""
        slots = (SLOTS,) if self.updates else ()
        return (*self.inputs, *slots, *(("slopes",) if self.takes_slopes else ()))

    @property
    def whole_heads(self) -> bool:
        """Whether a gradient sums over the batch, so that the check of a head needs all its sequences."""
        return any("b" not in self.inputs[name].axes for name in self.gradients)

    def make(self, draw: Draw) -> dict[str, Tensor]:
        """Return realistic inputs in layout bhnd: those besides q, k and v, and replacements of q, k or v.

        `decay` [heads] is among them if the family has its own slopes. Any float dtype will do: the caller
        rounds the tensors.
        """
        return {}

    def output(self, problem: Problem) -> Tensor:
        """Return o [P, n, e] in fp64 from the definition, differentiable; gates come activated.

        Raise NotImplementedError if the family implements `solve` instead.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement output()")

    def solve(
        self, problem: Problem, *, gradients: bool, output_dtype: torch.dtype | None = None
    ) -> dict[str, Tensor]:
        """Return `o` and, if asked for, `dNAME` of every input that has a gradient, [P, ...], in fp64.

        The gradients are those of `output` by autograd, in fp64. `output_dtype` matters only to a family
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

    def fused(self, problem: Problem) -> Tensor:
        """Return o in the dtype of q by a fused kernel of torch, differentiable.

        Raise NotImplementedError if the family has none.
        """
        raise NotImplementedError(f"{type(self).__name__} has no fused form")

    def flops(self, shape: Shape) -> tuple[float, float]:
        """Return the FLOPs of the cheapest exact form, (forward, backward); a multiply-add counts as two."""
        raise NotImplementedError(f"{type(self).__name__} does not implement flops()")

    def span(self, shape: Shape) -> int:
        """Return about how many keys the oracle multiplies each query with.

        The number decides how many pairs of (batch, head) are checked.
        """
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


LINEAR_BACKWARD = 2.5
"""FLOPs backward over forward of a state S [d, e] that is read once and written once per token.

Forward are two products of d × e: kᵀv onto S, and q S. Backward are five: S again, do Sᵀ for dq, qᵀdo to dS,
v dSᵀ for dk and k dS for dv.
"""


def recurrent_flops(shape: Shape) -> tuple[float, float]:
    """Return the FLOPs of a recurrence with a state of head_dim × value_dim: 4·d·e per token, 10 backward."""
    tokens = shape.batch * shape.heads * shape.seq_len
    fwd = float(tokens * 4 * shape.head_dim * shape.value_dim)
    return fwd, LINEAR_BACKWARD * fwd
