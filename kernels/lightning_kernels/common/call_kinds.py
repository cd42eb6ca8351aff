"""Which calls are alike, and which may go past the dispatcher of torch.

Calls are of one kind where their tensors agree in everything but values and addresses: shapes, strides,
dtypes, devices and alignments. What has been checked and decided for one of them holds for all.
"""

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import torch
from torch import Tensor

from .private_torch import (
    dispatch_modes,
    has_forward_mode,
    has_functorch_transforms,
    tensor_guard,
    tracing_state,
)

MOST_KINDS = 4096
"""More would be kept for ever by calls that each have a sequence length of their own."""
_PLAIN = (Tensor, torch.nn.Parameter)
Decision = TypeVar("Decision")


def unobserved(q: Tensor) -> bool:
    """Say whether calling the operator's implementation itself makes no difference but to the time.

    The dispatcher's way through Python takes as long as the rest of a call. A compiler, a tracer, a mode, a
    transform or autocast must see the operator.
    """
    return (
        not torch.compiler.is_compiling()  # first, since a compiler cannot ask the others
        and q.is_cuda
        and dispatch_modes() == 0
        and not has_functorch_transforms()
        and not torch.is_autocast_enabled("cuda")
        and tracing_state() is None
        and not has_forward_mode()
    )


def kind_of(tensors: tuple[Tensor | None, ...]) -> Hashable:
    """Return everything of the tensors that a plan depends on: all but values and addresses.

    None if one of them is not a plain tensor: a subclass, a view that is negated when it is read, or what
    represents zeros or, under autograd's own vmap, several tensors. The dispatcher makes plain ones of these
    for the operator.
    """
    kind: list[Hashable] = []
    for x in tensors:
        if x is None:
            kind.append(None)
            continue
        if type(x) not in _PLAIN or x.is_neg():
            return None
        try:
            address = x.data_ptr()
        except RuntimeError:  # it has no storage
            return None
        if address == 0 and x.numel():
            return None
        kind += x.shape, x.stride(), x.dtype, x.get_device(), address & 15
    return tuple(kind)


class KeptByKind(Generic[Decision]):
    """What has been decided for calls, by the kind of their tensors and by whatever else it depends on.

    The latest kind of each number of elements is recognised by one comparison in C++, in a third of the time.
    """

    def __init__(self) -> None:
        self._values: dict[Hashable, Decision] = {}
        self._latest: dict[Hashable, tuple[Callable[..., bool], Decision]] = {}

    def __len__(self) -> int:
        return len(self._values)

    def find(
        self, tensors: tuple[Tensor | None, ...], also: Hashable, decide: Callable[[], Decision]
    ) -> Decision | None:
        """Return what has been decided for this kind of tensors; `decide` decides for a new one.

        Returns None where a tensor is not a plain one (`kind_of`). What `decide` raises is not kept.

        Args:
            tensors: of the call.
            also: what it depends on besides, and which of the tensors are None.
            decide: makes the decision.
        """
        given = [x for x in tensors if x is not None]
        place = also, given[0].numel(), torch.is_grad_enabled()
        latest = self._latest.get(place)
        if latest is not None and latest[0](*given) and _aligned(given):
            return latest[1]
        kind = kind_of(tensors)
        if kind is None:
            return None
        key = also, kind
        value = self._values.get(key)
        if value is None:
            value = decide()
            if len(self._values) >= MOST_KINDS:
                self._values.clear()
                self._latest.clear()
            self._values[key] = value
        if _aligned(given) and len({id(x) for x in given}) == len(given):  # the comparison takes none twice
            self._latest[place] = tensor_guard(given), value
        return value


def _aligned(tensors: list[Tensor]) -> bool:
    """Say whether all tensors have memory that begins at a multiple of 16 bytes."""
    bits = 0
    for x in tensors:
        bits |= x.data_ptr() or 1
    return not bits & 15
