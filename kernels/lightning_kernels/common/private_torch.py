"""Everything that is used of torch's private interface: a new release of torch is checked against this file.

The names are bound once on import, so that a call costs what it costs in torch.
tests/lightning_kernels/common/test_private_torch.py tests what each of them answers in each state.
"""

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = [
    "below_autocast",
    "below_autograd",
    "current_device",
    "dispatch_modes",
    "has_forward_mode",
    "has_functorch_transforms",
    "is_dtensor",
    "load_associative_scan",
    "register_sharding",
    "tensor_guard",
    "tracing_state",
]

below_autograd: Callable[[], AbstractContextManager[object]] = torch._C._AutoDispatchBelowAutograd
"""Return a context in which the dispatcher skips autograd: operators run without being recorded."""

dispatch_modes: Callable[[], int] = torch._C._len_torch_dispatch_stack
"""Return how many `TorchDispatchMode` are active, such as `FakeTensorMode` and that of `make_fx`."""

current_device: Callable[[], int] = getattr(torch._C, "_cuda_getDevice", torch.cuda.current_device)
"""Return the index of the current CUDA device, where a tensor on one exists already."""

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


def tensor_guard(tensors: Sequence[Tensor]) -> Callable[..., bool]:
    """Return what says whether as many tensors are like these in all but values and addresses.

    It is how torch.compile sees whether it has compiled for given tensors: their types, shapes, strides,
    dtypes, devices, whether they require gradients, and everything by which the dispatcher chooses, such as
    subclasses, views that are negated when read, modes, transforms and autocast.
    It is false for the same tensor twice. It does not keep the tensors alive.
    """
    guards: Any = getattr(torch._C._dynamo.guards, "TensorGuards", None)
    if guards is None:  # then calls are recognised more slowly
        return lambda *_: False
    check: Callable[..., bool] = guards(
        *tensors,
        dynamic_dims_sizes=[list(x.shape) for x in tensors],
        dynamic_dims_strides=[list(x.stride()) for x in tensors],
    ).check
    return check


def is_dtensor(tensor: Tensor) -> bool:
    """Say whether a tensor is a `DTensor`, without importing what nobody has imported."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def register_sharding(operator: torch._ops.OpOverload, function: Callable[..., Any]) -> None:
    """Tell DTensor by `function` which placements `operator` takes, as torch's `register_sharding` does.

    That remembers an answer by the arguments that are tensors and those that are ints. Here it is remembered
    by all of them: results depend on bools, and on which of the tensors are None.
    """
    from torch.distributed.tensor import DTensor, experimental
    from torch.distributed.tensor._op_schema import RuntimeSchemaInfo

    experimental.register_sharding(operator)(function)
    propagator = DTensor._op_dispatcher.sharding_propagator
    propagator.register_op_strategy(
        operator,
        propagator.op_strategy_funcs[operator],
        RuntimeSchemaInfo(static_argnum=0, needs_pytree=True),
    )
