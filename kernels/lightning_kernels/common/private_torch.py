"""Everything that is used of torch's private interface: a new release of torch is checked against this file.

The names are bound once on import, so that a call costs what it costs in torch.
tests/lightning_kernels/common/test_private_torch.py tests what each of them answers in each state.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.autograd import forward_ad

__all__ = [
    "below_autocast",
    "below_autograd",
    "dispatch_modes",
    "has_forward_mode",
    "has_functorch_transforms",
    "load_associative_scan",
    "tracing_state",
]

below_autograd: Callable[[], AbstractContextManager[object]] = torch._C._AutoDispatchBelowAutograd
"""Return a context in which the dispatcher skips autograd: operators run without being recorded."""

dispatch_modes: Callable[[], int] = torch._C._len_torch_dispatch_stack
"""Return how many `TorchDispatchMode` are active, such as `FakeTensorMode` and that of `make_fx`."""

has_functorch_transforms: Callable[[], bool] = torch._C._are_functorch_transforms_active
"""Say whether the code runs inside `torch.vmap` or a transform of `torch.func`."""

tracing_state: Callable[[], object] = torch._C._get_tracing_state
"""Return None unless `torch.jit.trace` records the operators that run."""

_AUTOCAST_KEYS = {
    device: torch._C.DispatchKeySet(key)
    for device, key in (
        ("cuda", torch._C.DispatchKey.AutocastCUDA),
        ("cpu", torch._C.DispatchKey.AutocastCPU),
    )
}


def below_autocast(device_type: str) -> AbstractContextManager[object]:
    """Return a context in which the dispatcher skips autocast of "cuda" or "cpu"."""
    guard: AbstractContextManager[object] = torch._C._ExcludeDispatchKeyGuard(_AUTOCAST_KEYS[device_type])
    return guard


def has_forward_mode() -> bool:
    """Say whether the code runs inside `forward_ad.dual_level` or `torch.func.jvp`."""
    return forward_ad._current_level >= 0


def load_associative_scan() -> Callable[..., Any]:
    """Import torch's prototype of a parallel scan: (combine, tensors, dim, combine_mode) -> tensors."""
    from torch._higher_order_ops.associative_scan import associative_scan

    return associative_scan
