"""Two fp64 oracles of causal linear attention with decay, for tests: quadratic and token by token.

    o_t = q_t · kv_t,   kv_t = λ·kv_{t−1} + k_tᵀ v_t,   λ = exp(−s)

Both are plain differentiable torch, so autograd gives the oracle of every gradient too. They are slow
and hold everything in memory.
"""

import torch
from torch import Tensor

from lightning_kernels._contract import check_inputs


def reference_attention(q: Tensor, k: Tensor, v: Tensor, s: Tensor | None = None) -> Tensor:
    """Evaluate the quadratic definition o_i = Σ_{j≤i} exp(−s·(i−j)) (q_i·k_j) v_j in fp64.

    Args:
        q: queries [b, h, n, head_dim], any floating dtype and device.
        k: keys [b, h, n, head_dim].
        v: values [b, h, n, value_dim].
        s: slopes per token [h, 1, 1] or [h], s ≥ 0; None means no decay.

    Returns:
        fp64 tensor [b, h, n, value_dim]; it takes O(b·h·n²) memory.

    Raises:
        ValueError: if shapes, dtypes or devices do not fit together.
    """
    slopes = check_inputs(q, k, v, s)
    n = q.shape[2]
    scores = q.double() @ k.double().transpose(-1, -2)  # [b, h, n, n]
    position = torch.arange(n, device=q.device, dtype=torch.float64)
    distance = position[:, None] - position[None, :]  # [n, n]
    weight = (distance >= 0).double()
    if slopes is not None:
        weight = weight * torch.exp(-slopes.double()[:, None, None] * distance.clamp_min(0.0))
    return (scores * weight) @ v.double()


def reference_recurrent(q: Tensor, k: Tensor, v: Tensor, s: Tensor | None = None) -> Tensor:
    """Walk the recurrence token by token in fp64.

    Arguments, result and errors are those of `reference_attention`; memory is O(b·h·head_dim·value_dim)
    a token while gradients are recorded.
    """
    slopes = check_inputs(q, k, v, s)
    b, h, n, d = q.shape
    q64, k64, v64 = q.double(), k.double(), v.double()
    decay = torch.ones(h, dtype=torch.float64, device=q.device)
    if slopes is not None:
        decay = torch.exp(-slopes.double())
    state = q64.new_zeros(b, h, d, v.shape[-1])
    rows = []
    for t in range(n):
        state = decay[:, None, None] * state + k64[:, :, t, :, None] * v64[:, :, t, None, :]
        rows.append((q64[:, :, t, None, :] @ state).squeeze(2))
    return torch.stack(rows, dim=2)
