"""What every implementation asks of its inputs, said once; heads are always the second dim in here."""

import torch
from torch import Tensor

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


def check_inputs(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    s: Tensor | None,
    initial_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
) -> None:
    """Check that everything fits together, without reading a value.

    Raises:
        ValueError: naming what is wrong and what is allowed.
        NotImplementedError: if a gradient with respect to s is asked for.
    """
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
    device = q.device
    if s is not None:
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
    if cu_seqlens is not None:
        if cu_seqlens.dtype != torch.int32 or cu_seqlens.dim() != 1 or cu_seqlens.shape[0] < 2:
            raise ValueError(
                "cu_seqlens must be int32 [num_seqs + 1] with at least one sequence, "
                f"got {cu_seqlens.dtype} {tuple(cu_seqlens.shape)}"
            )
        if cu_seqlens.device != device:
            raise ValueError(f"cu_seqlens must be on the device of q, got {cu_seqlens.device} and {device}")
        if b != 1:
            raise ValueError(f"with cu_seqlens all sequences are packed into a batch of 1, got {b}")
    if initial_state is not None:
        states = b if cu_seqlens is None else cu_seqlens.shape[0] - 1
        if initial_state.shape != (states, heads, d, v.shape[3]):
            raise ValueError(
                f"initial_state must be {[states, heads, d, v.shape[3]]}, that is [batch or num_seqs, "
                f"heads of q, head_dim, value_dim], got {tuple(initial_state.shape)}"
            )
        if not initial_state.dtype.is_floating_point:
            raise ValueError(f"initial_state must have a floating dtype, got {initial_state.dtype}")
        if initial_state.device != device:
            raise ValueError(
                f"initial_state must be on the device of q, got {initial_state.device} and {device}"
            )


def _check_kinds(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Check dtypes, which may differ only where autocast makes them one, and devices."""
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


def check_values(s: Tensor | None, cu_seqlens: Tensor | None, seq_len: int) -> None:
    """Check the values of slopes and offsets where they lie on the CPU: elsewhere it would synchronise.

    Raises:
        ValueError: naming what is wrong and what is allowed.
    """
    if s is not None and s.is_cpu and bool((s < 0).any()):
        raise ValueError("every slope in s must be at least 0: the decay is exp(-s)")
    if cu_seqlens is not None and cu_seqlens.is_cpu:
        bounds: list[int] = cu_seqlens.tolist()
        if bounds[0] != 0 or bounds[-1] != seq_len or sorted(bounds) != bounds:
            raise ValueError(
                f"cu_seqlens must start at 0, never decrease and end at seq_len {seq_len}, got {bounds}"
            )


def check_kernel_inputs(q: Tensor, k: Tensor, v: Tensor, name: str) -> None:
    """Check what a Triton kernel asks beyond `check_inputs`: dtype, dims and the kind of device.

    Raises:
        ValueError: naming what is wrong and what is allowed.
    """
    for dtype in (q.dtype, k.dtype, v.dtype):
        if dtype not in KERNEL_DTYPES:
            raise ValueError(f"{name} takes float32, float16 or bfloat16, got {dtype}")
    check_dims(q.shape[3], v.shape[3], name)
    if not (q.is_cuda or q.is_cpu or q.is_meta):
        raise ValueError(f"{name} needs tensors on a GPU, got {q.device}: use lightning_attn2_torch there")


def check_dims(head_dim: int, value_dim: int, name: str) -> None:
    """Check that both dims are from 1 to 256.

    Raises:
        ValueError: naming the dim that is outside.
    """
    if 1 <= head_dim <= MAX_DIM and 1 <= value_dim <= MAX_DIM:
        return
    label, dim = ("value_dim", value_dim) if 1 <= head_dim <= MAX_DIM else ("head_dim", head_dim)
    raise ValueError(f"{name} takes a {label} from 1 to {MAX_DIM}, got {dim}")
