"""Which implementation computes a call: chosen once per kind of call, and kept.

Calls are of one kind where their tensors agree in everything but values and addresses: shapes, strides,
dtypes, devices and alignments. A call of a known kind is neither checked nor decided upon again.
"""

from collections.abc import Callable
from functools import cache, partial
from types import ModuleType

import torch
from torch import Tensor

from ..common.call import Call, Implementation, Upstream
from ..common.call_kinds import KeptByKind
from ..common.switches import hopper_is_on, invariant
from ..common.validate import check_call, check_kernel_call
from .adapted import Copying, Rescaling
from .tiles import hopper_takes

_plans: KeptByKind[Implementation] = KeptByKind()


def forward_plan(call: Call, *, checked: bool = False) -> Implementation | None:
    """Return what computes the call, which is checked unless it has been; None as `KeptByKind.find`.

    Raises:
        ValueError, NotImplementedError: as `check`.
    """

    q, k, v, slopes, initial_state, bounds, _, return_state = call

    def decide() -> Implementation:
        if not checked:
            check(call)
        return choose(q, k, v)

    learned = slopes is not None and slopes.requires_grad and torch.is_grad_enabled()  # is refused
    given = slopes is None, initial_state is None, bounds is None
    also = given, checked, return_state, learned, hopper_is_on(), invariant()
    return _plans.find((q, k, v, slopes, initial_state, bounds), also, decide)


def backward_plan(upstream: Upstream, call: Call) -> Implementation | None:
    """Return what computes the gradients of a call; None as `KeptByKind.find`."""
    q, k, v, slopes, initial_state, bounds, _, _ = call
    grad_o, grad_state, needs = upstream
    given = slopes is None, initial_state is None, bounds is None, grad_o is None, grad_state is None
    also = given, needs, hopper_is_on(), invariant()
    tensors = q, k, v, slopes, initial_state, bounds, grad_o, grad_state
    return _plans.find(tensors, also, lambda: choose(q, k, v, grad_o))


def check(call: Call) -> None:
    """Check all that `lightning_attn2` demands of a call, without reading a value.

    Raises:
        ValueError: naming what is wrong and what is allowed.
        NotImplementedError: if a gradient with respect to s is asked for.
    """
    check_call(call)
    check_kernel_call(call, "lightning_attn2")


def choose(q: Tensor, k: Tensor, v: Tensor, grad_o: Tensor | None = None) -> Implementation:
    """Choose what computes a call with q, k, v, and backward the gradient of o.

    It is the Hopper kernel where the GPU has it and it takes these dims and this dtype. Tensors that it
    cannot read as they are, because of their strides or their address, are copied.
    """
    special = hopper(q.get_device()) if hopper_takes(q.dtype, q.shape[3], v.shape[3]) else None
    make: Callable[[], Implementation] = portable
    if special is not None:
        copied = [not special.takes(x) for x in (q, k, v, grad_o)]
        make = partial(Copying, special.HopperAttention, copied) if any(copied) else special.HopperAttention
    return Rescaling(make) if q.dtype == torch.float16 else make()


@cache
def portable() -> ModuleType:
    """Return the implementation for every GPU.

    Raises:
        ModuleNotFoundError: if triton is not installed.
    """
    from . import portable as module

    return module


@cache
def hopper(device: int) -> ModuleType | None:
    """Return the implementation for compute capability 9.0 if this CUDA device has it, else None."""
    if device < 0 or torch.cuda.get_device_capability(device) != (9, 0):
        return None
    from .hopper import host

    return host
