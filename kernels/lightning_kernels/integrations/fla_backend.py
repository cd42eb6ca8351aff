"""A backend of flash-linear-attention's simple GLA for one decay per head. Needs fla-core 0.6 or newer."""

from typing import Any

import torch
from fla.backends import BaseBackend, register
from fla.ops.simple_gla import fused_chunk_simple_gla, fused_recurrent_simple_gla
from torch import Tensor

from ..lightning2.api import lightning_attn2
from ..lightning2.blocked import lightning_attn2_torch
from ..step.decode_step import lightning_attn2_step, lightning_attn2_step_torch

_WIDEST = 256
_KNOWN = {"scale", "initial_state", "output_final_state", "cu_seqlens"}
"""Options of a call that it may have; others only where they ask for nothing."""


class LightningKernelsBackend(BaseBackend):  # type: ignore[misc]
    """What fla's dispatch asks: ahead of fla's own kernels, unless `FLA_USE_LIGHTNING_KERNELS=0` is set."""

    backend_type = "lightning_kernels"
    env_var = "FLA_USE_LIGHTNING_KERNELS"
    priority = 1


def register_backend() -> None:
    """Have fla's `fused_chunk_simple_gla` and `fused_recurrent_simple_gla` run these kernels where they can.

    They can with `g_gamma` [heads], a log decay of each head that is 0 or below (not checked on a GPU),
    without `g`, `reverse`, `state_v_first` and options unknown here, and with dims up to 256. Other calls go
    on to fla's kernels.
    fla's `chunk_simple_gla` has no dispatch.
    """
    for function in (fused_chunk_simple_gla, fused_recurrent_simple_gla):
        register(function, backend=LightningKernelsBackend, verifier=_takes)(_simple_gla)


def _takes(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor | None = None, g_gamma: Tensor | None = None, **options: Any
) -> tuple[bool, str | None]:
    """Return whether a call can run here, and if not, why."""
    if g is not None or g_gamma is None:
        return False, "it needs g_gamma, one decay per head, and no g"
    if unknown := [name for name in sorted(options.keys() - _KNOWN) if options[name] not in (None, False)]:
        return False, f"it has no {unknown[0]}"
    if max(q.shape[-1], v.shape[-1]) > _WIDEST:
        return False, f"it has dims up to {_WIDEST}"
    return True, None


def _simple_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None = None,
    g_gamma: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """Return o [b, n, heads, value_dim] and the final state, if it is asked for, as fla does."""
    assert g_gamma is not None
    slopes, bounds = -g_gamma.float(), options.get("cu_seqlens")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    decodes = q.shape[1] == 1 and bounds is None and not torch.is_grad_enabled()
    if decodes and initial_state is not None and output_final_state:
        step = lightning_attn2_step if q.is_cuda else lightning_attn2_step_torch
        state = initial_state.float().clone()  # fla leaves the given one as it is
        return step(q[:, 0], k[:, 0], v[:, 0], slopes, state=state, scale=scale)[:, None], state
    attend: Any = lightning_attn2 if q.is_cuda else lightning_attn2_torch
    given = {"scale": scale, "initial_state": initial_state, "layout": "bnhd"}
    if bounds is not None:
        given["cu_seqlens"] = bounds.to(torch.int32)
    if output_final_state:
        o, state = attend(q, k, v, slopes, return_state=True, **given)
        return o, state
    return attend(q, k, v, slopes, **given), None
