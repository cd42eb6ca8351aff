"""Which calls are alike, and which may go past the dispatcher of torch.

Calls are of one kind where their tensors agree in everything but values and addresses: shapes, strides,
dtypes, devices and alignments. What has been checked and decided for one of them holds for all.
"""

from collections.abc import Hashable

import torch
from torch import Tensor

from .private_torch import (
    dispatch_modes,
    has_forward_mode,
    has_functorch_transforms,
    tracing_state,
)

_PLAIN = (Tensor, torch.nn.Parameter)


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
