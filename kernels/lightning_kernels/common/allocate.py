"""Allocation of results: layouts follow those of the inputs, so that nothing is copied afterwards."""

import torch
from torch import Tensor

from .call import Call


def empty_like(tensor: Tensor) -> Tensor:
    """Allocate a tensor of the shape and dtype of `tensor`, whose last dim is contiguous.

    It has the strides of `tensor` where the last dim of that is contiguous.
    """
    out = torch.empty_like(tensor)
    # Dynamo knows no strides while it traces a backward pass, and PyTorch's own operations take any.
    if not torch.compiler.is_dynamo_compiling() and out.stride()[-1] != 1:
        out = torch.empty_like(tensor, memory_format=torch.contiguous_format)
    return out


def empty_output(call: Call) -> Tensor:
    """Allocate o [b, heads, n, value_dim], laid out in memory as v is; with one kv head, as q is."""
    v = call.v
    heads, kv_heads = call.q.shape[1], v.shape[1]
    if heads == kv_heads:
        return empty_like(v)
    b, _, n, e = v.shape
    like = call.q if kv_heads == 1 else v  # the strides of one head say nothing about its layout
    if 0 < like.stride(1) < like.stride(2):
        return v.new_empty(b, n, heads, e).transpose(1, 2)
    return v.new_empty(b, heads, n, e)


def empty_rows(q: Tensor, _: Tensor, v: Tensor, *__: object, **___: object) -> Tensor:
    """Allocate o [tokens, heads, value_dim] of an operator that takes q and v as [tokens, heads, ·]."""
    return q.new_empty((q.shape[0], q.shape[1], v.shape[2]))


def empty_state(call: Call) -> Tensor:
    """Allocate a state [b or num_seqs, heads, head_dim, value_dim] in fp32, or fp64 for fp64 inputs."""
    q, bounds = call.q, call.cu_seqlens
    count = q.shape[0] if bounds is None else bounds.shape[0] - 1
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    return torch.empty((count, q.shape[1], q.shape[3], call.v.shape[3]), dtype=dtype, device=q.device)


def unit_last_stride(tensor: Tensor) -> Tensor:
    """Return the tensor itself if its last dim is contiguous, which the kernels need, else a copy."""
    if torch.compiler.is_dynamo_compiling():
        return tensor.contiguous()
    return tensor if tensor.stride()[-1] == 1 else tensor.contiguous()


def sum_groups(part: Tensor, total: Tensor) -> None:
    """Sum `part` [b, heads, n, ·] into `total` [b, kv_heads, n, ·], which may be `part` itself."""
    if part is not total:
        torch.sum(part.unflatten(1, (total.shape[1], -1)), dim=2, out=total)
