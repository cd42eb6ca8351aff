"""Which implementation computes a call: chosen once per kind of call, and kept.

Calls are of one kind where their tensors agree in everything but values and addresses: shapes, strides,
dtypes, devices and alignments. A call of a known kind is neither checked nor decided upon again.
"""

from collections.abc import Callable, Hashable
from functools import cache, partial
from types import ModuleType

import torch
from torch import Tensor

from ..common.call import Call, Implementation, Upstream
from ..common.kinds import kind_of
from ..common.switches import hopper_is_on, invariant
from ..common.validate import check_call, check_kernel_call
from .adapted import Copying, Rescaling
from .tiles import hopper_takes

MOST_PLANS = 4096
"""More would be kept for ever by calls that each have a sequence length of their own."""


_plans: dict[Hashable, Implementation] = {}


def forward_plan(call: Call) -> Implementation | None:
    """Return what computes the call, checked; None where only the operator can (`kind_of`).

    Raises:
        ValueError, NotImplementedError: as `check`.
    """
    kind = kind_of(call[:6])
    if kind is None:
        return None
    slopes = call.slopes
    learned = slopes is not None and slopes.requires_grad and torch.is_grad_enabled()  # is refused
    key = call.return_state, learned, hopper_is_on(), invariant(), kind
    plan = _plans.get(key)
    if plan is None:
        check(call)
        plan = _keep(key, choose(call.q, call.k, call.v))
    return plan


def backward_plan(upstream: Upstream, call: Call) -> Implementation | None:
    """Return what computes the gradients of a call; None where only the operator can (`kind_of`)."""
    kind = kind_of((upstream.grad_o, upstream.grad_state, *call[:6]))
    if kind is None:
        return None
    key = upstream.needs, hopper_is_on(), invariant(), kind
    plan = _plans.get(key)
    if plan is None:
        plan = _keep(key, choose(call.q, call.k, call.v, upstream.grad_o))
    return plan


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


def _keep(key: Hashable, plan: Implementation) -> Implementation:
    if len(_plans) >= MOST_PLANS:
        _plans.clear()
    _plans[key] = plan
    return plan
