"""The decay slopes of TransNormerLLM, one a head."""

import math

import torch
from torch import Tensor


def build_slope_tensor(heads: int) -> Tensor:
    """Build the slopes s of the per-head decay λ = exp(−s).

    For a power of two, s_i = 2^(−8(i+1)/heads). Otherwise, as in ALiBi, the slopes of the closest
    lower power of two, followed by every second one of twice that power.

    Args:
        heads: the number of heads, at least 1.

    Returns:
        fp32 tensor [heads, 1, 1] on the CPU; each slope is per token and lies in (0, 1].

    Raises:
        ValueError: if `heads` is less than 1.
    """
    if heads < 1:
        raise ValueError(f"heads must be at least 1, got {heads}")
    return torch.tensor(_slopes(heads), dtype=torch.float32).reshape(heads, 1, 1)


def _slopes(heads: int) -> list[float]:
    power = 2 ** math.floor(math.log2(heads))
    first = [2.0 ** (-8.0 * (i + 1) / power) for i in range(power)]
    between = [2.0 ** (-8.0 * (i + 1) / (2 * power)) for i in range(0, 2 * power, 2)]
    return first + between[: heads - power]
