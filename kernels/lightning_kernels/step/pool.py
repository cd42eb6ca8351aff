"""Pools of states [slots, heads, head_dim, value_dim], and the indices of slots in them."""

import torch
from torch import Tensor

from ..common.validate import KERNEL_DTYPES, check_dims, check_nvidia

POOL_DTYPES = (torch.float32, torch.bfloat16)


def check_pool(state: Tensor, q: Tensor, v: Tensor) -> None:
    """Check a pool for q [..., heads, head_dim] and v [..., heads, value_dim], without reading a value.

    Raises:
        ValueError: naming what is wrong and what is allowed.
    """
    shape = (q.shape[-2], q.shape[-1], v.shape[-1])
    if state.dim() != 4 or state.shape[1:] != shape:
        raise ValueError(
            f"state must be a pool [slots, heads of q, head_dim, value_dim] = "
            f"[slots, {', '.join(map(str, shape))}], "
            f"got {list(state.shape)}"
        )
    allowed = (torch.float64,) if q.dtype == torch.float64 else POOL_DTYPES
    if state.dtype not in allowed:
        names = " or ".join(str(dtype).removeprefix("torch.") for dtype in allowed)
        raise ValueError(f"state must be {names} for {q.dtype} inputs, got {state.dtype}")
    if state.device != q.device:
        raise ValueError(f"state must be on the device of q, got {state.device} and {q.device}")
    sizes = zip(state.stride(), state.shape, strict=True)
    if state.numel() and any(stride == 0 and size > 1 for stride, size in sizes):
        raise ValueError(
            "state is updated in place and must not be expanded: pass state.contiguous() and keep it, "
            f"got strides {state.stride()}"
        )


def check_vector(
    vector: Tensor, name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> None:
    """Check a tensor of one number per sequence, or of one row of them, without reading a value.

    Raises:
        ValueError: if it is not of this shape, dtype and device.
    """
    if vector.shape != shape or vector.dtype != dtype:
        raise ValueError(
            f"{name} must be {str(dtype).removeprefix('torch.')} {list(shape)}, "
            f"got {vector.dtype} {list(vector.shape)}"
        )
    if vector.device != device:
        raise ValueError(f"{name} must be on the device of q, got {vector.device} and {device}")


def check_slot_values(read: list[int], written: list[list[int]], slots: int) -> None:
    """Check which slots the sequences of a batch read and write; numbers below 0 are no slot.

    Args:
        read: the slot that each sequence begins with.
        written: the slots that each sequence writes to.
        slots: how many the pool has.

    Raises:
        ValueError: if a slot does not exist, two states would be written to one slot, or one to a slot that
            another sequence begins with: in which order, the kernel does not say.
    """
    readers: dict[int, set[int]] = {}
    for sequence, slot in enumerate(read):
        if slot >= 0:
            readers.setdefault(slot, set()).add(sequence)
    writers: set[int] = set()
    for sequence, slot in ((sequence, slot) for sequence, some in enumerate(written) for slot in some):
        if slot < 0:
            continue
        if slot in writers:
            raise ValueError(f"two states would be written to slot {slot}: every slot may be written once")
        if others := readers.get(slot, set()) - {sequence}:
            raise ValueError(
                f"sequence {sequence} would write to slot {slot}, which sequence {min(others)} begins with"
            )
        writers.add(slot)
    largest = max([*readers, *writers], default=-1)
    if largest >= slots:
        raise ValueError(f"slots are from 0 to {slots - 1}, or below 0 for none, got {largest}")


def check_kernel_dtype(q: Tensor, name: str) -> None:
    """Check that kernels take the dtype of q, before a state is asked to fit it.

    Raises:
        ValueError: naming what is allowed.
    """
    if q.dtype not in KERNEL_DTYPES and q.dtype.is_floating_point:
        raise ValueError(f"{name} takes float32, float16 or bfloat16, got {q.dtype}")


def check_kernel_pool(q: Tensor, v: Tensor, state: Tensor, name: str) -> None:
    """Check what kernels need beyond `check_pool`: dims, strides and the kind of device.

    Raises:
        ValueError: naming what is wrong and what is allowed.
    """
    check_dims(q.shape[-1], v.shape[-1], name)
    check_nvidia(q.device, name, f"{name}_torch")
    if state.stride(3) != 1 and state.shape[3] != 1:
        raise ValueError(f"the last dim of state must be contiguous, got strides {state.stride()}")


def refuse_gradients(name: str, trains: str, tensors: tuple[Tensor, ...]) -> None:
    """Check that no gradient is asked for.

    Raises:
        NotImplementedError: naming the function that `trains`.
    """
    if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        raise NotImplementedError(
            f"{name} computes no gradient: use {trains} for training, or call it under torch.no_grad()"
        )
