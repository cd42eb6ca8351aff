"""The host side of the Hopper kernel: what it takes, how a call is cut into programs, and the launches."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from triton.experimental.gluon.language import NVMMASharedLayout
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from ...common.allocate import (
    empty_like,
    empty_output,
    empty_state,
    sum_groups,
    unit_last_stride,
)
from ...common.call import Call, Gradients, Upstream
from ...common.launch import on_device
from ...common.private_triton import direct_launch
from ..cuts import hopper_launch, pooled_launch
from ..tiles import HopperTiles, processors
from .kernel import linear_attention_kernel

__all__ = ["HopperAttention", "HopperServing", "Pool", "takes"]

Tensors = tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor, Tensor | None, Tensor | None]
"""Forward q, k, v, None, o, None, None; backward q, k, v, the gradient of o, dq, dk, dv."""
Extras = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]
"""Slopes, bounds of sequences, initial state, gradient of the final state, and the state that leaves."""


class Pool(NamedTuple):
    """The states of packed sequences: slots of one tensor, which is both initial and final state in `Extras`.

    All three are int32 [num_seqs] or of one byte per element.
    """

    slots: Tensor | None = None
    """Where the state is that enters a sequence; below 0 the sequence is padding. None: there is no pool."""
    leaving: Tensor | None = None
    """Where to leave it, below 0 nowhere; None is `slots`."""
    begun: Tensor | None = None
    """uint8: 0 where zeros enter; None is 1."""


_NO_POOL = Pool()
_LARGEST_STRIDE = 2**24
"""So that 64 tokens, and the dims of one, stay within 32-bit offsets."""


def takes(*tensors: Tensor | None) -> bool:
    """Say whether the kernel can read these tensors [b, h, n, dim] as they are; None is skipped.

    It copies 16 bytes at a time: every dim and every stride must be a multiple of 16 elements, every tensor
    begin at such an address, and every last dim be contiguous. It takes float16 and bfloat16.
    """
    for x in tensors:
        if x is None:
            continue
        b, h, n = _strides(x)
        if (b | h | n | x.shape[3] | x.data_ptr()) & 15 or n > _LARGEST_STRIDE or x.stride(3) != 1:
            return False
        if x.dtype != torch.bfloat16 and x.dtype != torch.float16:
            return False
    return True


def _strides(x: Tensor | None) -> tuple[int, int, int]:
    """Return the strides of batch, head and token; 0 for a dim of one, whose stride may be anything."""
    if x is None:
        return (0, 0, 0)
    b, heads, n, _ = x.shape
    of_b, of_head, of_n, _ = x.stride()
    return (of_b if b > 1 else 0, of_head if heads > 1 else 0, of_n if n > 1 else 0)


def _boxable(x: Tensor) -> bool:
    """Say whether TMA can read a tensor that `takes` allows: it needs strides above 0."""
    return all(stride > 0 or size == 1 for stride, size in zip(x.stride(), x.shape, strict=True))


def _box(x: Tensor, columns: int) -> TensorDescriptor:
    """Describe the tiles of 64 tokens by `columns` of x for TMA."""
    box = TensorDescriptor.__new__(TensorDescriptor)  # without its checks, which `takes` has made
    box.base, box.shape, box.padding = x, list(x.shape), "zero"
    box.strides = [*(stride or 16 for stride in _strides(x)), 1]
    box.block_shape, box.layout = [1, 1, 64, columns], NVMMASharedLayout(min(128, 2 * columns), 16, 4)
    return box


_NO_BOXES = (None,) * 7


def _boxes(tensors: Tensors, tiles: HopperTiles) -> tuple[TensorDescriptor | None, ...]:
    """Describe the tiles that a launch reads by TMA, in the order of the kernel's arguments.

    Backward each tensor is read whole in one role; q, k and the gradient of o are read by columns in another.
    """
    if not tiles.boxes:
        return _NO_BOXES
    q, k, v, g = tensors[:4]
    whole, part = tiles.block_d, tiles.columns
    if g is None:
        return _box(q, whole), _box(k, whole), _box(v, part), *_NO_BOXES[3:]
    return *(_box(x, whole) for x in (q, k, v, g)), *(_box(x, part) for x in (q, k, g))


def _contiguous(state: Tensor) -> Tensor:
    return state.to(torch.float32).contiguous()


def launch(grid: tuple[int, int, int], warps: int, arguments: tuple[object, ...]) -> Any:
    """Launch the kernel through triton, which compiles it the first time, and return the compiled kernel.

    Returns None where a hook of triton's took the launch. Tests that run the kernel without a GPU replace
    this function.
    """
    return linear_attention_kernel[grid](*arguments, num_warps=warps)


compiled_kernels: dict[tuple[object, ...], Any] = {}
"""Kernels that `launch` returned, by everything that one is compiled for: a launch through triton binds and
specialises every argument, which takes as long as the kernel does for a short sequence."""


class Launch:
    """The launch for tensors of the same shapes, strides, dtypes and alignments."""

    def __init__(self, tensors: Tensors, extras: Extras, pool: Pool = _NO_POOL) -> None:
        q, k, v, g = tensors[:4]
        slopes, offsets, initial, grad_state, final = extras
        b, heads, n, d = q.shape
        e = v.shape[3]
        sequences = b if offsets is None else offsets.shape[0] - 1
        self._programs = sequences * heads
        if self._programs == 0:
            return
        device = q.get_device()
        backward = g is not None
        strides = tuple(stride for x in tensors for stride in _strides(x))
        boxable = offsets is None and all(x is None or _boxable(x) for x in tensors[:4])
        stateless = initial is None and grad_state is None and final is None
        # Backward with states the wide kernel spills, and is not taken.
        elements = q.numel() if boxable and (stateless or not backward) else 0
        packed = 0 if offsets is None else sequences
        if pool.slots is not None:
            cut = pooled_launch(d, e, self._programs, processors(device))
        else:
            cut = hopper_launch(
                d, e, backward, self._programs, -(-n * b // sequences), processors(device), elements, packed
            )
        tiles, walks, segments, chunk, whole, most = cut
        self._tiles, self._grid = tiles, (walks * segments, 1, 1)
        slot = 0 if pool.slots is None or initial is None else initial.stride(0)
        self._counts = heads, heads // k.shape[1], n, sequences, segments, chunk, whole, most, slot
        self._rest = (*strides, d, e, tiles, backward)
        # Strides are multiples of 16 and these tensors aligned, as `takes` says; the states may not be.
        self._device = device
        self._key = (
            device, q.dtype, d, e, tiles, backward, slopes is None, offsets is None, _alignment(initial),
            _alignment(grad_state), None if final is None else final.dtype, *(x is None for x in pool),
            max(slot, *strides) < 2**31,
        )  # fmt: skip
        self._again: Callable[..., object] | None = None

    def __call__(self, tensors: Tensors, extras: Extras, scale: float, pool: Pool = _NO_POOL) -> None:
        """Launch the kernel on these tensors; the first launch compiles it."""
        if self._programs == 0:
            return
        boxes = _boxes(tensors, self._tiles)
        exchange = self._exchange(tensors[0]) if self._tiles.ahead else (None, None)
        with on_device(tensors[0]):
            (self._again or self._first)(
                *tensors, *boxes, *extras, *exchange, *pool, *self._counts, scale, *self._rest
            )

    def _exchange(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Allocate the sums and flags by which segments exchange states (`exchange`)."""
        sums = q.new_empty((*self._grid[:1], self._tiles.columns, self._tiles.block_d), dtype=torch.float32)
        return sums, q.new_zeros(self._grid[0], dtype=torch.int32)

    def _first(self, *arguments: object) -> None:
        """Launch the kernel, compile it if nothing has, and keep what launches it again."""
        kernel = compiled_kernels.get(self._key)
        if kernel is None:
            kernel = launch(self._grid, self._tiles.state_warps, arguments)
            if kernel is None:
                return
            if self._key[-1]:
                compiled_kernels[self._key] = kernel
        else:
            kernel[self._grid](*arguments)
        options = {"num_warps": self._tiles.state_warps}
        self._again = direct_launch(linear_attention_kernel, options, kernel, self._grid, self._device)


def _alignment(x: Tensor | None) -> int:
    return -1 if x is None else x.data_ptr() % 16


class HopperAttention:
    """Calls whose tensors have the same shapes, strides, dtypes and alignments, all forward or all backward.

    The first call decides what to launch.
    """

    def __init__(self) -> None:
        self._launch: Launch | None = None

    def _prepare(self, tensors: Tensors, extras: Extras) -> Launch:
        self._launch = Launch(tensors, extras)
        return self._launch

    def forward(self, call: Call) -> tuple[Tensor, Tensor | None]:
        """Compute o and, where `call.return_state`, the final state."""
        q, k, v, slopes, initial_state, offsets, scale, return_state = call.for_kernels()
        out = empty_output(call)
        final = empty_state(call) if return_state else None
        initial = None if initial_state is None else _contiguous(initial_state)
        tensors, extras = (q, k, v, None, out, None, None), (slopes, offsets, initial, None, final)
        (self._launch or self._prepare(tensors, extras))(tensors, extras, scale)
        return out, final

    def backward(self, upstream: Upstream, call: Call) -> Gradients:
        """Compute all gradients in one launch and return those in `upstream.needs`."""
        q, k, v, slopes, initial_state, offsets, scale, _ = call.for_kernels()
        grad_o, grad_state, needs = upstream
        b, heads, n, _ = q.shape
        do = v.new_zeros(b, heads, n, v.shape[3]) if grad_o is None else unit_last_stride(grad_o)
        grouped = k.shape[1] != heads
        dq, dk, dv = empty_like(q), empty_like(k), empty_like(v)
        each_dk = k.new_empty(q.shape) if grouped else dk
        each_dv = v.new_empty(b, heads, n, v.shape[3]) if grouped else dv
        final = None
        if needs[3] and initial_state is not None:
            final = initial_state.new_empty(initial_state.shape, dtype=torch.float32)
        initial = None if initial_state is None else _contiguous(initial_state)
        entering = None if grad_state is None else _contiguous(grad_state)
        tensors, extras = (q, k, v, do, dq, each_dk, each_dv), (slopes, offsets, initial, entering, final)
        (self._launch or self._prepare(tensors, extras))(tensors, extras, scale)
        if grouped:
            sum_groups(each_dk, dk)
            sum_groups(each_dv, dv)
        d_initial = final if final is None or initial_state is None else final.to(initial_state.dtype)
        return Gradients(
            dq if needs[0] else None, dk if needs[1] else None, dv if needs[2] else None, d_initial
        )


class HopperServing:
    """Batches of packed sequences with states in a pool, forward, of one kind as for `HopperAttention`."""

    def __init__(self) -> None:
        self._launch: Launch | None = None

    def __call__(self, call: Call, pool: Pool, out: Tensor) -> None:
        """Write o into `out` [1, h, n, value_dim] and update the pool, which is `call.initial_state`."""
        q, k, v, slopes, states, offsets, scale, _ = call
        tensors: Tensors = (q, k, v, None, out, None, None)
        extras: Extras = (slopes, offsets, states, None, states)
        if self._launch is None:
            self._launch = Launch(tensors, extras, pool)
        self._launch(tensors, extras, scale, pool)
