"""How the operators are computed where q, k and v are `DTensor`s: each rank has some sequences or heads.

Tokens are not sharded: a state passes from each to the next. `register` is called when the first DTensor
arrives, since importing `torch.distributed.tensor` takes as long as importing this whole package.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

from torch.distributed.tensor import Partial, Placement, Replicate, Shard

from .._ops import ops
from ..common.private_torch import register_sharding

Placements = list[Placement | None]
Sharding = tuple[Placements, Placements]
"""Placements of the results and of the arguments of an operator along one dim of a mesh."""


@cache
def register() -> None:
    """Tell DTensor of the placements that the operators take."""
    register_sharding(ops.linear_attention.default, _forward)
    register_sharding(ops.linear_attention_backward.default, _backward)


def _forward(
    q: Any, k: Any, v: Any, slopes: Any, initial_state: Any, cu_seqlens: Any, scale: float, return_state: bool
) -> list[Sharding]:
    given = (slopes, initial_state, cu_seqlens)
    return [
        ([of_q, of_q if return_state else Replicate()], [of_q, of_k, of_k, *_rest(of_q, given), None])
        for of_q, of_k in _inputs(q, k, cu_seqlens)
    ]


def _backward(
    grad_o: Any, grad_state: Any, q: Any, k: Any, v: Any, slopes: Any, initial_state: Any, cu_seqlens: Any,
    scale: float, needs: Sequence[bool],
) -> list[Sharding]:  # fmt: skip
    given = (slopes, initial_state, cu_seqlens)
    shardings: list[Sharding] = []
    for of_q, of_k in _inputs(q, k, cu_seqlens):
        # Heads on several ranks that share a kv head: its gradient is their sum.
        of_dk = Partial() if of_q != of_k else of_k
        results: Placements = [
            of_result if needed and x is not None else Replicate()
            for of_result, needed, x in zip(
                (of_q, of_dk, of_dk, of_q), needs, (q, k, v, initial_state), strict=True
            )
        ]
        upstream = (None if x is None else of_q for x in (grad_o, grad_state))
        shardings.append((results, [*upstream, of_q, of_k, of_k, *_rest(of_q, given), None]))
    return shardings


def _inputs(q: Any, k: Any, cu_seqlens: Any) -> list[tuple[Placement, Placement]]:
    """Return what q, with o and states, and k, with v, may be placed as."""
    heads, kv_heads = q.shape[1], k.shape[1]
    found: list[tuple[Placement, Placement]] = [(Replicate(), Replicate())]
    if cu_seqlens is None:
        found.append((Shard(0), Shard(0)))
    if kv_heads == heads or kv_heads % q.mesh.size() == 0:
        found.append((Shard(1), Shard(1)))
    elif kv_heads == 1:
        found.append((Shard(1), Replicate()))
    return found


def _rest(of_q: Placement, given: Sequence[Any]) -> Placements:
    """Return placements of slopes, the initial state, bounds and the scale, which has none."""
    slopes, initial_state, cu_seqlens = given
    return [
        None if slopes is None else Shard(0) if of_q == Shard(1) else Replicate(),
        None if initial_state is None else of_q,
        None if cu_seqlens is None else Replicate(),
        None,
    ]
