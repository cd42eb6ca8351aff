"""The decay slopes of TransNormerLLM, one per head, and how they change from layer to layer."""

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
    # Not on the default device, which may be "meta".
    return torch.tensor(_slopes(heads), dtype=torch.float32, device="cpu").reshape(heads, 1, 1)


def layer_slopes(slopes_or_heads: Tensor | int, layer: int, layers: int) -> Tensor:
    """Scale slopes for one layer of a model: s · (1 − layer/(layers−1) + 1e−5).

    The first layer forgets the fastest and the last one hardly forgets. A model of a single layer gets
    the slopes of a first layer.

    Args:
        slopes_or_heads: slopes of any shape, or the number of heads for those of `build_slope_tensor`.
        layer: index of the layer, from 0 to layers − 1.
        layers: the number of layers, at least 1.

    Returns:
        slopes per token, of the shape, dtype and device of the given slopes; for a number of heads, fp32
        [heads, 1, 1] on the CPU.

    Raises:
        ValueError: if `layers` or the number of heads is less than 1, or `layer` is not from 0 to layers − 1.

    Source: TransNormerLLM, arXiv 2307.14995, and its published code.
    """
    if layers < 1:
        raise ValueError(f"layers must be at least 1, got {layers}")
    if not 0 <= layer < layers:
        raise ValueError(f"layer must be from 0 to {layers - 1} for {layers} layers, got {layer}")
    slopes = slopes_or_heads if isinstance(slopes_or_heads, Tensor) else build_slope_tensor(slopes_or_heads)
    depth = layer / (layers - 1) if layers > 1 else 0.0
    return slopes * (1 - depth + 1e-5)


def _slopes(heads: int) -> list[float]:
    power = 2 ** math.floor(math.log2(heads))
    first = [2.0 ** (-8.0 * (i + 1) / power) for i in range(power)]
    between = [2.0 ** (-8.0 * (i + 1) / (2 * power)) for i in range(0, 2 * power, 2)]
    return first + between[: heads - power]
