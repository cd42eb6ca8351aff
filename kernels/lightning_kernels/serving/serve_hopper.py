"""Batches with prompts on Hopper: the kernel of `lightning_attn2`, whose states lie in the pool."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..common.call import Call
from ..common.call_kinds import KeptByKind
from ..common.switches import invariant
from ..lightning2.adapted import LEAST_SCALE
from ..lightning2.plans import hopper
from ..lightning2.tiles import hopper_takes
from .serve_call import ServeCall
from .serve_kernel import WALKED

__all__ = ["hopper_serving"]

_PROMPTS = 32
"""Tokens per sequence, on average, from which on it is a batch of prompts. A decoding token costs this kernel
twice the time of `serve_kernel`, and a prompt two thirds of it."""
_plans: KeptByKind[Callable[[ServeCall], Tensor]] = KeptByKind()


def hopper_serving(call: ServeCall) -> Callable[[ServeCall], Tensor] | None:
    """Return what computes the call, which has been checked, by the Hopper kernel; None where nothing does.

    It does for 16-bit tokens where tensors can be read as they are, without stochastic rounding and
    snapshots.
    """
    q, k, v, pool = call.q, call.k, call.v, call.state
    if (
        0 < call.max_seqlen <= WALKED
        or q.shape[0] < _PROMPTS * call.state_indices.shape[0]
        or call.snapshot_indices is not None
        or call.rounding_seeds is not None
        or (q.dtype == torch.float16 and call.scale < LEAST_SCALE)
        or invariant()
        or not hopper_takes(q.dtype, q.shape[2], v.shape[2])
    ):
        return None
    host = hopper(q.get_device())
    if host is None:
        return None
    of_slot = v.shape[2] * q.shape[2]
    if pool.stride()[1:] != (of_slot, v.shape[2], 1) or not host.takes(*(_by_head(x) for x in (q, k, v))):
        return None

    def make() -> Callable[[ServeCall], Tensor]:
        return Serving(host.HopperServing(), host.Pool)

    tensors = q, k, v, call.slopes, pool, call.cu_seqlens, *call.vectors().values()
    given = call.slopes is None, *call.vectors()
    return _plans.find(tensors, given, make) or make()


class Serving:
    """Calls of one kind."""

    def __init__(self, kernel: Callable[..., None], pool: Callable[..., object]) -> None:
        self._kernel, self._pool = kernel, pool

    def __call__(self, call: ServeCall) -> Tensor:
        """Compute o [tokens, heads, value_dim] and update the pool."""
        call = call.for_kernels()
        tokens, heads, _ = call.q.shape
        out = torch.empty((tokens, heads, call.v.shape[2]), dtype=call.q.dtype, device=call.q.device)
        begun = call.has_initial_state
        pool = self._pool(
            call.state_indices, call.output_state_indices, None if begun is None else begun.view(torch.uint8)
        )
        q, k, v = (_by_head(x) for x in (call.q, call.k, call.v))
        packed = Call(q, k, v, call.slopes, call.state, call.cu_seqlens, call.scale)
        self._kernel(packed, pool, _by_head(out))
        return out


def _by_head(x: Tensor) -> Tensor:
    """Return a view [1, heads, tokens, dim] of x [tokens, heads, dim]."""
    return x.transpose(0, 1)[None]
