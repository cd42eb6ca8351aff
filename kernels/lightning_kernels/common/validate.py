"""The checks of inputs that operators share. In a `Call`, heads are the second dim."""

import torch
from torch import Tensor

from .call import Call

KERNEL_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MAX_DIM = 256


def heads_first(q: Tensor, k: Tensor, v: Tensor, layout: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return q, k, v as [batch, heads, seq_len, dim] views.

    Raises:
        ValueError: for an unknown layout or tensors that are not of four dims.
    """
    if not q.dim() == k.dim() == v.dim() == 4:
        name, tensor = next(pair for pair in (("q", q), ("k", k), ("v", v)) if pair[1].dim() != 4)
        raise ValueError(
            f"{name} must be [batch, heads, seq_len, dim], or [batch, seq_len, heads, dim] with "
            f'layout="bnhd", got shape {tuple(tensor.shape)}'
        )
    if layout == "bhnd":
        return q, k, v
    if layout == "bnhd":
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    raise ValueError(f'layout must be "bhnd" or "bnhd", got {layout!r}')


def check_call(call: Call) -> None:
    """Check that shapes, dtypes and devices of a call fit together, without reading a value.

    Raises:
        ValueError: naming what is wrong and what is allowed.
        NotImplementedError: if a gradient with respect to s is asked for.
    """
    q, k, v, slopes, initial_state, bounds, _, _ = call
    b, heads, n, d = q.shape
    kv_b, kv_heads, kv_n, kv_d = k.shape
    if b != kv_b or n != kv_n or d != kv_d:
        raise ValueError(
            "q and k must share batch, seq_len and head_dim, got [batch, heads, seq_len, dim] "
            f"{tuple(q.shape)} and {tuple(k.shape)}"
        )
    if k.shape[:3] != v.shape[:3]:
        raise ValueError(
            "v must share batch, heads and seq_len with k, got [batch, heads, seq_len, dim] "
            f"{tuple(v.shape)} and {tuple(k.shape)}"
        )
    if heads != kv_heads and (kv_heads == 0 or heads % kv_heads):
        raise ValueError(f"the heads of q must be a multiple of those of k and v, got {heads} and {kv_heads}")
    _check_kinds(q, k, v)
    if slopes is not None:
        check_slopes(slopes, heads, q.device)
    if bounds is not None:
        check_bounds(bounds, q.device)
        if b != 1:
            raise ValueError(f"with cu_seqlens all sequences are packed into a batch of 1, got {b}")
    if initial_state is not None:
        sequences = b if bounds is None else bounds.shape[0] - 1
        _check_initial_state(initial_state, (sequences, heads, d, v.shape[3]), q.device)


def check_slopes(s: Tensor, heads: int, device: torch.device) -> None:
    """Check slopes per token, without reading a value.

    Raises:
        ValueError: if they are not [heads] or [heads, 1, 1] of a floating dtype, on `device`.
        NotImplementedError: if a gradient with respect to s is asked for.
    """
    if s.shape != (heads,) and s.shape != (heads, 1, 1):
        raise ValueError(
            f"s must be [{heads}, 1, 1] or [{heads}] for {heads} heads of q, got {tuple(s.shape)}"
        )
    if not s.dtype.is_floating_point:
        raise ValueError(f"s must have a floating dtype, got {s.dtype}")
    if s.device != device:
        raise ValueError(f"s must be on the device of q, got {s.device} and {device}")
    if s.requires_grad and torch.is_grad_enabled():
        raise NotImplementedError("no gradient with respect to s is computed: pass s.detach()")


def check_bounds(cu_seqlens: Tensor, device: torch.device) -> None:
    """Check bounds of packed sequences, without reading a value.

    Raises:
        ValueError: if they are not int32 [num_seqs + 1] with at least one sequence, on `device`.
    """
    if cu_seqlens.dtype != torch.int32 or cu_seqlens.dim() != 1 or cu_seqlens.shape[0] < 2:
        raise ValueError(
            "cu_seqlens must be int32 [num_seqs + 1] with at least one sequence, "
            f"got {cu_seqlens.dtype} {tuple(cu_seqlens.shape)}"
        )
    if cu_seqlens.device != device:
        raise ValueError(f"cu_seqlens must be on the device of q, got {cu_seqlens.device} and {device}")


def check_bound_values(cu_seqlens: Tensor, n: int) -> None:
    """Check the values of bounds of packed sequences on the CPU.

    Raises:
        ValueError: if they do not start at 0, decrease or end above n.
    """
    if cu_seqlens.is_cpu:
        given: list[int] = cu_seqlens.tolist()
        if given[0] != 0 or given[-1] > n or sorted(given) != given:
            raise ValueError(
                f"cu_seqlens must start at 0, never decrease and end at most at seq_len {n}, got {given}"
            )


def check_token_rows(q: Tensor, k: Tensor, v: Tensor, leading: tuple[str, ...]) -> None:
    """Check q, k and v of [*leading, heads, dim], without reading a value.

    Raises:
        ValueError: naming what is wrong and what is allowed.
    """
    names = ", ".join(leading)
    if not q.dim() == k.dim() == v.dim() == len(leading) + 2:
        raise ValueError(
            f"q, k and v must be [{names}, heads, dim], got shapes "
            f"{tuple(q.shape)}, {tuple(k.shape)} and {tuple(v.shape)}"
        )
    heads, kv_heads, head_dim, value_dim = q.shape[-2], k.shape[-2], q.shape[-1], v.shape[-1]
    if k.shape[:-2] != q.shape[:-2] or k.shape[-1] != head_dim:
        raise ValueError(
            f"k must share {names} and head_dim with q, got {tuple(k.shape)} and {tuple(q.shape)}"
        )
    if v.shape[:-1] != k.shape[:-1]:
        raise ValueError(f"v must share {names} and heads with k, got {tuple(v.shape)} and {tuple(k.shape)}")
    if kv_heads < 1 or heads < 1 or heads % kv_heads:
        raise ValueError(f"the heads of q must be a multiple of those of k, got {heads} and {kv_heads}")
    if head_dim < 1 or value_dim < 1:
        raise ValueError(f"head_dim and value_dim must be at least 1, got {head_dim} and {value_dim}")
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(f"q, k and v must have one dtype, got {q.dtype}, {k.dtype} and {v.dtype}")
    if not q.dtype.is_floating_point:
        raise ValueError(f"q, k and v must have a floating dtype, got {q.dtype}")
    if not q.device == k.device == v.device:
        raise ValueError(f"q, k and v must be on one device, got {q.device}, {k.device} and {v.device}")


def _check_initial_state(state: Tensor, shape: tuple[int, int, int, int], device: torch.device) -> None:
    if state.shape != shape:
        raise ValueError(
            f"initial_state must be {list(shape)}, that is [batch or num_seqs, "
            f"heads of q, head_dim, value_dim], got {tuple(state.shape)}"
        )
    if not state.dtype.is_floating_point:
        raise ValueError(f"initial_state must have a floating dtype, got {state.dtype}")
    if state.device != device:
        raise ValueError(f"initial_state must be on the device of q, got {state.device} and {device}")


def _check_kinds(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Check dtypes, which may differ only where autocast makes them equal, and devices."""
    if not q.dtype == k.dtype == v.dtype and autocast_dtype(q) is None:
        raise ValueError(f"q, k and v must have one dtype, got {q.dtype}, {k.dtype} and {v.dtype}")
    if not (q.dtype.is_floating_point and k.dtype.is_floating_point and v.dtype.is_floating_point):
        raise ValueError(f"q, k and v must have a floating dtype, got {q.dtype}, {k.dtype} and {v.dtype}")
    if not q.device == k.device == v.device:
        raise ValueError(f"q, k and v must be on one device, got {q.device}, {k.device} and {v.device}")


def autocast_dtype(tensor: Tensor) -> torch.dtype | None:
    """Return the dtype that autocast casts to where the tensor is, None where it is off."""
    device = tensor.device.type
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


def check_values(call: Call) -> None:
    """Check the values of slopes and `cu_seqlens` on the CPU; elsewhere reading them would synchronise.

    Raises:
        ValueError: if a slope is negative or not a number, or bounds of sequences do not start at 0, decrease
            or end above n.
    """
    check_slope_values(call.slopes)
    if call.cu_seqlens is not None:
        check_bound_values(call.cu_seqlens, call.q.shape[2])


def check_slope_values(s: Tensor | None) -> None:
    """Check that slopes on the CPU are not negative and not NaN.

    Raises:
        ValueError: if one is.
    """
    if s is not None and s.is_cpu and not bool((s >= 0).all()):
        raise ValueError("every slope in s must be a number of at least 0: the decay is exp(-s)")


def check_kernel_call(call: Call, name: str) -> None:
    """Check what the Triton kernels of `name` need beyond `check_call`: dtype, dims and the kind of device.

    Raises:
        ValueError: naming what is wrong and what is allowed.
    """
    q, k, v = call.q, call.k, call.v
    for dtype in (q.dtype, k.dtype, v.dtype):
        if dtype not in KERNEL_DTYPES:
            raise ValueError(f"{name} takes float32, float16 or bfloat16, got {dtype}")
    check_dims(q.shape[3], v.shape[3], name)
    if not (q.is_cuda or q.is_cpu or q.is_meta):
        raise ValueError(f"{name} needs tensors on a GPU, got {q.device}: use lightning_attn2_torch there")
    check_nvidia(q.device, name, "lightning_attn2_torch")


def check_nvidia(device: torch.device, name: str, instead: str) -> None:
    """Check that a GPU, which torch calls "cuda" on AMD too, is not one of AMD.

    Raises:
        ValueError: naming the function to use there, `instead`.
    """
    if torch.version.hip is not None and device.type == "cuda":
        raise ValueError(
            f"{name} takes NVIDIA GPUs, got {device} of PyTorch for AMD (ROCm {torch.version.hip}): "
            f"use {instead} there"
        )


def check_dims(head_dim: int, value_dim: int, name: str) -> None:
    """Check that both dims are from 1 to 256.

    Raises:
        ValueError: naming the dim that is outside.
    """
    if 1 <= head_dim <= MAX_DIM and 1 <= value_dim <= MAX_DIM:
        return
    label, dim = ("value_dim", value_dim) if 1 <= head_dim <= MAX_DIM else ("head_dim", head_dim)
    raise ValueError(f"{name} takes a {label} from 1 to {MAX_DIM}, got {dim}")
