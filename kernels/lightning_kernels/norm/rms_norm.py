"""SimpleRMSNorm, the norm without weights of TransNormerLLM: a row over its root mean square."""

from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .._ops import add_op_namespace_prefix, ops
from ..common.private_torch import below_autograd, has_forward_mode
from ..common.validate import KERNEL_DTYPES, check_nvidia

_MAX_DIM = 32768
"""More elements do not fit in the registers of one program."""


def simple_rms_norm(x: Tensor, eps: float = 1e-6) -> Tensor:
    """Divide each row of x by its root mean square, on a GPU, in one pass over memory.

    y = x / √(mean(x²) + eps) over the last dim, with sums in fp32: what the paper writes as
    x / (‖x‖₂ / √dim), with the eps of its published code. The backward pass is one pass too and needs
    nothing but x. It is one operator to torch.compile. Under autocast it keeps the dtype of x.

    Args:
        x: [..., dim] in float32, float16 or bfloat16, dim from 1 to 32768. Up to three leading dims may have
            any strides; a copy is made of more, or where the last dim is not contiguous.
        eps: added to the mean of squares, at least 0. With 0 a row of zeros becomes NaN, as by the formula.

    Returns:
        y [..., dim] in the dtype of x, contiguous.

    Raises:
        ValueError: if dtype, dim or eps are not as above, or x is not on a GPU.
        NotImplementedError: for rows of more than 32768 elements or more than 2³¹ − 1 rows, and for
            forward-mode derivatives.
        ModuleNotFoundError: if triton is not installed.

    Source: TransNormerLLM, arXiv 2307.14995.
    """
    _check(x, eps)
    if x.dtype not in KERNEL_DTYPES:
        raise ValueError(f"simple_rms_norm takes float32, float16 or bfloat16, got {x.dtype}")
    _check_dim(x.shape[-1])
    if not (x.is_cuda or x.is_cpu or x.is_meta):
        raise ValueError(
            f"simple_rms_norm needs a tensor on a GPU, got {x.device}: use simple_rms_norm_torch"
        )
    check_nvidia(x.device, "simple_rms_norm", "simple_rms_norm_torch")
    if x.shape[:-1].numel() >= 2**31:
        raise NotImplementedError(
            f"simple_rms_norm takes fewer than 2**31 rows, got {x.shape[:-1].numel()}: call it on parts"
        )
    y: Tensor = _norm(x, float(eps))
    return y


def simple_rms_norm_torch(x: Tensor, eps: float = 1e-6) -> Tensor:
    """Divide each row of x by its root mean square by PyTorch operations, for CPUs.

    Argument and result are those of `simple_rms_norm`, but for: any floating dtype, device, dim and strides;
    fp64 is computed in fp64, all else in fp32; derivatives of any order and mode.

    Raises:
        ValueError: if x has no dim or no floating dtype, or eps is negative.

    Source: TransNormerLLM, arXiv 2307.14995.
    """
    _check(x, eps)
    wide = x if x.dtype == torch.float64 else x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


def simple_rms_norm_config(dim: int) -> str:
    """Say which tile `simple_rms_norm` takes for rows of `dim` elements, for a benchmark's record.

    Raises:
        ValueError: if dim is less than 1.
        NotImplementedError: if dim is more than 32768.
    """
    _check_dim(dim)
    rows, block, warps = _kernels().norm_tile(dim)
    return f"rows={rows} block={block} warps={warps}"


def _check(x: Tensor, eps: float) -> None:
    if x.dim() == 0:
        raise ValueError("x must have at least one dim, [..., dim], got a scalar")
    if not x.dtype.is_floating_point:
        raise ValueError(f"x must have a floating dtype, got {x.dtype}")
    if not eps >= 0:
        raise ValueError(f"eps must be at least 0, got {eps}")


def _check_dim(dim: int) -> None:
    if dim < 1:
        raise ValueError(f"simple_rms_norm takes rows of at least 1 element, got {dim}")
    if dim > _MAX_DIM:
        raise NotImplementedError(
            f"simple_rms_norm takes rows of up to {_MAX_DIM} elements, got {dim}: use simple_rms_norm_torch"
        )


@cache
def _kernels() -> ModuleType:
    from . import norm_kernel as norm

    return norm


def _forward(x: Tensor, eps: float) -> Tensor:
    y: Tensor = _kernels().forward(x, eps)
    return y


def _forward_on_cpu(x: Tensor, eps: float) -> Tensor:
    """Run in the Triton interpreter, or say that it is off."""
    _kernels().check_runnable(x)
    return _forward(x, eps)


def _forward_fake(x: Tensor, eps: float) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _backward(dy: Tensor, x: Tensor, eps: float) -> Tensor:
    dx: Tensor = _kernels().backward(dy, x, eps)
    return dx


def _backward_fake(dy: Tensor, x: Tensor, eps: float) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


class _SimpleRmsNorm(torch.autograd.Function):
    """The forward operator, whose backward is the backward operator."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        """Compute y; nothing but x is saved."""
        ctx.save_for_backward(x)
        ctx.eps = eps
        with below_autograd():
            return _norm(x, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        """Compute the gradient of x, which has no gradient of its own."""
        (x,) = ctx.saved_tensors
        return _norm_backward(dy, x, ctx.eps), None


def _autograd(x: Tensor, eps: float) -> Tensor:
    if has_forward_mode():
        raise NotImplementedError("simple_rms_norm has no forward-mode derivative: simple_rms_norm_torch has")
    if torch.is_grad_enabled() and x.requires_grad:
        y: Tensor = _SimpleRmsNorm.apply(x, eps)  # type: ignore[no-untyped-call]
        return y
    with below_autograd():
        return _norm(x, eps)


# The low-level API: torch.library.custom_op costs a call several times as much on the host.
_LIBRARY = torch.library.Library(ops.name, "FRAGMENT")
_LIBRARY.define("simple_rms_norm(Tensor x, float eps) -> Tensor")
_LIBRARY.define("simple_rms_norm_backward(Tensor dy, Tensor x, float eps) -> Tensor")
for _name, _on_gpu, _on_cpu, _fake in (
    ("simple_rms_norm", _forward, _forward_on_cpu, _forward_fake),
    ("simple_rms_norm_backward", _backward, _backward, _backward_fake),
):
    _LIBRARY.impl(_name, _on_gpu, "CUDA")
    _LIBRARY.impl(_name, _on_cpu, "CPU")
    torch.library.register_fake(add_op_namespace_prefix(_name), _fake, lib=_LIBRARY)
_LIBRARY.impl("simple_rms_norm", _autograd, "Autograd")
_norm: Callable[..., Tensor] = ops.simple_rms_norm.default
_norm_backward: Callable[..., Tensor] = ops.simple_rms_norm_backward.default
