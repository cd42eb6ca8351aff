"""Softmax attention by the fused kernels of torch, whose memory does not grow with the square of seq_len."""

from __future__ import annotations

import warnings

from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import pad, scaled_dot_product_attention

# Taken before any provider is imported, which could replace it.
_attention = scaled_dot_product_attention

_FUSED = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
_STEP = 8


def fused_attention(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
    """Return softmax(q kᵀ / √d) v, [P, n, e], in the dtype of q [P, n, d]; differentiable.

    The kernels want equal dims in steps of 8: zeros are added and cut off again, which changes nothing.
    Raise RuntimeError if there is no such kernel for these inputs.
    """
    d, e = q.shape[-1], v.shape[-1]
    width = -(-max(d, e) // _STEP) * _STEP
    q, k, v = (pad(x, (0, width - x.shape[-1])) for x in (q, k, v))
    with warnings.catch_warnings(), sdpa_kernel(_FUSED):
        warnings.simplefilter("ignore")  # why a kernel is not used
        o: Tensor = _attention(q[None], k[None], v[None], is_causal=causal, scale=d**-0.5)
    return o[0, :, :, :e]
