"""One call of `lightning_attn2_step` as a value, and its checks."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..common.validate import check_slope_values, check_slopes, check_token_rows
from .pool import check_pool, check_slot_values, check_vector, refuse_gradients


class StepCall(NamedTuple):
    """The tensors of a decoding step."""

    q: Tensor
    """[b, heads, head_dim]."""
    k: Tensor
    """[b, kv_heads, head_dim]; kv_heads divides heads."""
    v: Tensor
    """[b, kv_heads, value_dim]."""
    slopes: Tensor | None
    """s per token, [heads] or [heads, 1, 1]; None is no decay."""
    state: Tensor
    """[b, heads, head_dim, value_dim], or with `state_indices` a pool of slots; it is updated."""
    state_indices: Tensor | None = None
    """int32 [b]: the slot of each sequence; below 0 it is padding."""
    rounding_seeds: Tensor | None = None
    """int64 [b]: seeds of stochastic rounding to states in bf16; None rounds to nearest."""

    def any_requires_grad(self) -> bool:
        """Say whether a tensor requires a gradient, which no step computes."""
        slopes = self.slopes
        return (
            self.q.requires_grad
            or self.k.requires_grad
            or self.v.requires_grad
            or self.state.requires_grad
            or (slopes is not None and slopes.requires_grad)
        )


def check_step(call: StepCall, name: str) -> None:
    """Check that shapes, dtypes and devices fit together, and on the CPU values of slopes and slots.

    Raises:
        ValueError: naming what is wrong and what is allowed.
        NotImplementedError: if a gradient is asked for.
    """
    q, k, v, slopes, state, indices, seeds = call
    check_token_rows(q, k, v, ("batch",))
    if indices is None:
        shape = (q.shape[0], q.shape[1], q.shape[2], v.shape[2])
        if state.shape != shape:
            raise ValueError(
                f"state must be [batch, heads of q, head_dim, value_dim] = {list(shape)}, got "
                f"{list(state.shape)}; with state_indices it may be a pool of more"
            )
    check_pool(state, q, v)
    for name_of, vector, dtype in (
        ("state_indices", indices, torch.int32),
        ("rounding_seeds", seeds, torch.int64),
    ):
        if vector is not None:
            check_vector(vector, name_of, q.shape[:1], dtype, q.device)
    if seeds is not None and state.dtype != torch.bfloat16:
        raise ValueError(f"rounding_seeds are for states in bfloat16, got states in {state.dtype}")
    trains = "lightning_attn2_torch" if name.endswith("_torch") else "lightning_attn2"
    refuse_gradients(name, trains, (q, k, v, state))
    if slopes is not None:
        check_slopes(slopes, q.shape[1], q.device)
    if not torch.compiler.is_compiling():  # traced tensors have no values
        check_slope_values(slopes)
        if indices is not None and indices.is_cpu:
            slots: list[int] = indices.tolist()
            check_slot_values(slots, [[slot] for slot in slots], state.shape[0])
