"""SimpleRMSNorm, forward and backward: each row is read once and written once.

    y = r·x,    dx = r·(dy − x·r²·mean(x·dy)),    r = 1/√(mean(x²) + eps)

A program holds whole rows in registers, so the backward pass finds r again from the x that it reads anyway
and the forward pass saves nothing but x. The speed is that of a copy.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.allocate import unit_last_stride
from ..common.launch import interpreted, on_device

__all__ = ["backward", "check_runnable", "forward", "norm_tile"]

_TILE = 2048
"""The fewest elements of a program, in several rows where rows are short."""
_LANE_ELEMENTS = 16
"""Elements per thread: two loads of 16 bytes for 16-bit dtypes, four for fp32."""
_OUTER_DIMS = 3


@triton.jit  # type: ignore[untyped-decorator]
def row_starts(row, size_1, size_2, stride_0, stride_1, stride_2, ONE_DIM: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return where rows begin in a tensor of three leading dims, or of one."""
    if ONE_DIM:
        return tl.cast(row, tl.int64) * stride_2
    outer = row // size_2
    starts = tl.cast(outer // size_1, tl.int64) * stride_0 + tl.cast(outer % size_1, tl.int64) * stride_1
    return starts + tl.cast(row % size_2, tl.int64) * stride_2


@triton.jit(do_not_specialize=["rows", "size_1", "size_2", "eps"])  # type: ignore[untyped-decorator]
def norm_forward_kernel(  # type: ignore[no-untyped-def]
    x_ptr, y_ptr, rows, size_1, size_2, eps, x_stride_0, x_stride_1, x_stride_2,
    D: tl.constexpr, ROWS: tl.constexpr, BLOCK_D: tl.constexpr, ONE_DIM: tl.constexpr,
):  # fmt: skip
    """One program normalises ROWS whole rows; those of y are contiguous."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    col = tl.arange(0, BLOCK_D)
    ok = (row < rows)[:, None] & (col < D)[None, :]  # [ROWS, BLOCK_D]
    x_at = row_starts(row, size_1, size_2, x_stride_0, x_stride_1, x_stride_2, ONE_DIM)
    x = tl.cast(tl.load(x_ptr + x_at[:, None] + col[None, :], mask=ok, other=0.0), tl.float32)
    r = 1.0 / tl.sqrt(tl.sum(x * x, axis=1) / D + eps)  # [ROWS]
    y_at = tl.cast(row, tl.int64)[:, None] * D + col[None, :]
    tl.store(y_ptr + y_at, tl.cast(x * r[:, None], y_ptr.dtype.element_ty), mask=ok)


@triton.jit(do_not_specialize=["rows", "size_1", "size_2", "eps"])  # type: ignore[untyped-decorator]
def norm_backward_kernel(  # type: ignore[no-untyped-def]
    dy_ptr, x_ptr, dx_ptr, rows, size_1, size_2, eps,
    dy_stride_0, dy_stride_1, dy_stride_2, x_stride_0, x_stride_1, x_stride_2,
    D: tl.constexpr, ROWS: tl.constexpr, BLOCK_D: tl.constexpr, ONE_DIM: tl.constexpr,
):  # fmt: skip
    """One program computes the gradient of ROWS whole rows; those of dx are contiguous."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    col = tl.arange(0, BLOCK_D)
    ok = (row < rows)[:, None] & (col < D)[None, :]  # [ROWS, BLOCK_D]
    x_at = row_starts(row, size_1, size_2, x_stride_0, x_stride_1, x_stride_2, ONE_DIM)
    dy_at = row_starts(row, size_1, size_2, dy_stride_0, dy_stride_1, dy_stride_2, ONE_DIM)
    x = tl.cast(tl.load(x_ptr + x_at[:, None] + col[None, :], mask=ok, other=0.0), tl.float32)
    dy = tl.cast(tl.load(dy_ptr + dy_at[:, None] + col[None, :], mask=ok, other=0.0), tl.float32)
    r = 1.0 / tl.sqrt(tl.sum(x * x, axis=1) / D + eps)  # [ROWS]
    # x·r first: r² would overflow for rows of tiny numbers.
    unit = x * r[:, None]
    along = tl.sum(unit * dy, axis=1) / D  # [ROWS]
    dx = (dy - unit * along[:, None]) * r[:, None]
    dx_at = tl.cast(row, tl.int64)[:, None] * D + col[None, :]
    tl.store(dx_ptr + dx_at, tl.cast(dx, dx_ptr.dtype.element_ty), mask=ok)


def norm_tile(dim: int) -> tuple[int, int, int]:
    """Return (rows of a program, padded dim, warps): at least 2048 elements, 16 per thread."""
    block = triton.next_power_of_2(dim)
    rows = max(1, _TILE // block)
    return rows, block, min(32, max(1, rows * block // (32 * _LANE_ELEMENTS)))


def check_runnable(x: Tensor) -> None:
    """Check that the kernel can run where x is.

    Raises:
        ValueError: for a tensor that is not on a GPU, unless the Triton interpreter is on.
    """
    if not x.is_cuda and not interpreted(norm_forward_kernel):
        raise ValueError(
            f"simple_rms_norm needs a tensor on a GPU, got {x.device}: use simple_rms_norm_torch there, "
            "or set TRITON_INTERPRET=1 before the import to debug"
        )


def forward(x: Tensor, eps: float) -> Tensor:
    """Return y, contiguous; `simple_rms_norm` has checked the arguments."""
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    if x.numel() == 0:
        return y
    (x,), sizes, strides = _rows(x)
    dim = x.shape[-1]
    count = x.numel() // dim
    rows, block, warps = norm_tile(dim)
    with on_device(x):
        norm_forward_kernel[(-(-count // rows),)](
            x, y, count, *sizes, eps, *strides[0],
            D=dim, ROWS=rows, BLOCK_D=block, ONE_DIM=sizes == (1, 1), num_warps=warps,
        )  # fmt: skip
    return y


def backward(dy: Tensor, x: Tensor, eps: float) -> Tensor:
    """Return dx, contiguous."""
    dx = torch.empty_like(x, memory_format=torch.contiguous_format)
    if x.numel() == 0:
        return dx
    (dy, x), sizes, strides = _rows(dy, x)
    dim = x.shape[-1]
    count = x.numel() // dim
    rows, block, warps = norm_tile(dim)
    with on_device(x):
        norm_backward_kernel[(-(-count // rows),)](
            dy, x, dx, count, *sizes, eps, *strides[0], *strides[1],
            D=dim, ROWS=rows, BLOCK_D=block, ONE_DIM=sizes == (1, 1), num_warps=warps,
        )  # fmt: skip
    return dx


def _rows(*tensors: Tensor) -> tuple[list[Tensor], tuple[int, int], list[tuple[int, ...]]]:
    """Return tensors of one shape as the kernels read them, sizes of the two inner leading dims, and strides.

    Adjacent leading dims are merged where they are contiguous to each other in every tensor. Where more than
    three are left, or a last dim is not contiguous, there is a copy.
    """
    ready = [unit_last_stride(x) for x in tensors]
    dim = ready[0].shape[-1]
    if all(x.is_contiguous() for x in ready):
        return ready, (1, 1), [(0, 0, dim)] * len(ready)
    merged: list[tuple[int, list[int]]] = []  # sizes and strides, innermost last
    for axis, size in enumerate(ready[0].shape[:-1]):
        strides = [x.stride(axis) for x in ready]
        if size == 1:
            continue
        if merged and all(outer == inner * size for outer, inner in zip(merged[-1][1], strides, strict=True)):
            merged[-1] = (merged[-1][0] * size, strides)
        else:
            merged.append((size, strides))
    if len(merged) > _OUTER_DIMS:
        return _rows(*(x.contiguous() for x in ready))
    merged = [(1, [0] * len(ready))] * (_OUTER_DIMS - len(merged)) + merged
    sizes = merged[1][0], merged[2][0]
    if merged[0][0] == 1 and merged[1][0] == 1:
        sizes = 1, 1
    return ready, sizes, [tuple(strides[i] for _, strides in merged) for i in range(len(ready))]
