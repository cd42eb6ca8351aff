"""What every implementation asks of its inputs, said once."""

import torch
from torch import Tensor

KERNEL_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MAX_DIM = 256


def check_inputs(q: Tensor, k: Tensor, v: Tensor, s: Tensor | None) -> Tensor | None:
    """Check that q, k, v and s fit together and return the slopes as [h], or None without decay.

    Raises:
        ValueError: naming what is wrong and what is allowed.
        NotImplementedError: if a gradient with respect to s is asked for.
    """
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if tensor.dim() != 4:
            raise ValueError(f"{name} must be [batch, heads, seq_len, dim], got shape {tuple(tensor.shape)}")
        if not tensor.dtype.is_floating_point:
            raise ValueError(f"{name} must have a floating dtype, got {tensor.dtype}")
    if q.shape != k.shape:
        raise ValueError(f"q and k must have one shape, got {tuple(q.shape)} and {tuple(k.shape)}")
    if q.shape[:3] != v.shape[:3]:
        raise ValueError(
            f"v must share batch, heads and seq_len with q, got {tuple(v.shape)} and {tuple(q.shape)}"
        )
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(f"q, k and v must have one dtype, got {q.dtype}, {k.dtype} and {v.dtype}")
    if not q.device == k.device == v.device:
        raise ValueError(f"q, k and v must be on one device, got {q.device}, {k.device} and {v.device}")
    if s is None:
        return None
    heads = q.shape[1]
    if s.shape not in ((heads,), (heads, 1, 1)):
        raise ValueError(f"s must be [{heads}, 1, 1] or [{heads}] for {heads} heads, got {tuple(s.shape)}")
    if not s.dtype.is_floating_point:
        raise ValueError(f"s must have a floating dtype, got {s.dtype}")
    if s.device != q.device:
        raise ValueError(f"s must be on the device of q, got {s.device} and {q.device}")
    if s.requires_grad and torch.is_grad_enabled():
        raise NotImplementedError("no gradient with respect to s is computed: pass s.detach()")
    if s.device.type == "cpu" and bool((s < 0).any()):
        raise ValueError("every slope in s must be at least 0: the decay is exp(-s)")
    return s.reshape(heads)


def check_kernel_inputs(q: Tensor, v: Tensor, name: str) -> None:
    """Check what a Triton kernel asks beyond `check_inputs`: dtype and dims.

    Raises:
        ValueError: naming what is wrong and what is allowed.
    """
    if q.dtype not in KERNEL_DTYPES:
        raise ValueError(f"{name} takes float32, float16 or bfloat16, got {q.dtype}")
    check_dims(q.shape[3], v.shape[3], name)


def check_dims(head_dim: int, value_dim: int, name: str) -> None:
    """Check that both dims are from 1 to 256.

    Raises:
        ValueError: naming the dim that is outside.
    """
    for label, dim in (("head_dim", head_dim), ("value_dim", value_dim)):
        if not 1 <= dim <= MAX_DIM:
            raise ValueError(f"{name} takes a {label} from 1 to {MAX_DIM}, got {dim}")
