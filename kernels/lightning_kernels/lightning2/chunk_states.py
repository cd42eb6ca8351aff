"""States after every chunk of tokens, or after the last token only, as a call: on a GPU by Triton kernels."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..common.allocate import empty_like, sum_groups, unit_last_stride
from ..common.launch import Launches, check_device
from ..common.switches import invariant
from .chunk_kernels import (
    chunk_grads_kernel,
    chunk_sums_kernel,
    pass_grads_kernel,
    pass_states_kernel,
)
from .state_call import StateCall, StateGradients
from .tiles import Tiles, lightning2_tiles, shared_limit, state_grad_tiles

__all__ = ["backward", "check_runnable", "forward"]

_ENOUGH_PROGRAMS = 264
"""Two for each of the 132 multiprocessors of an H200."""
_LEAST_CHUNK, _LONG_CHUNK, _INVARIANT_CHUNK = 512, 4096, 2048
"""Tokens of a chunk where only the last state is wanted: at least; from where on more programs cost less than
uneven ones, since a state is some hundred tokens; and where nothing else may count."""
_TILE = 1024
_sums = Launches(chunk_sums_kernel)
_states = Launches(pass_states_kernel)
_grads = Launches(pass_grads_kernel)
_chunk_grads = Launches(chunk_grads_kernel)


class _Chunks(NamedTuple):
    """How a call is cut up, and what kernels read of it."""

    every: int
    """Tokens per chunk."""
    places: int
    """Places for chunks per sequence, or with packed sequences for those of all."""
    tiles: Tiles
    slopes: Tensor | None
    bounds: Tensor | None

    def numbers(self, call: StateCall) -> tuple[int, int, int, int]:
        """Return heads, tokens, tokens per chunk and places, as kernels take them."""
        return call.heads, call.k.shape[2], self.every, self.places


def _chunks(call: StateCall) -> _Chunks:
    k, v, slopes, bounds = call.k, call.v, call.slopes, call.cu_seqlens
    tiles = lightning2_tiles(k.shape[3], v.shape[3], k.dtype, shared_limit(k.get_device()))
    every = call.every
    if not every:
        every = _INVARIANT_CHUNK if invariant() else _last_chunk(call, tiles)
    slopes = None if slopes is None else slopes.to(torch.float32).contiguous()
    return _Chunks(every, call.places(every), tiles, slopes, None if bounds is None else bounds.contiguous())


def _last_chunk(call: StateCall, tiles: Tiles) -> int:
    """Choose the tokens of a chunk where only the last state is wanted."""
    batch, _, n, _ = call.k.shape
    programs = max(1, batch * call.heads * tiles.split_e)

    def cut(enough: int) -> int:
        return -(-n // -(-enough // programs) // tiles.block) * tiles.block

    return max(_LEAST_CHUNK, min(cut(_ENOUGH_PROGRAMS), max(_LONG_CHUNK, cut(4 * _ENOUGH_PROGRAMS))))


def check_runnable(tensor: Tensor) -> None:
    """Raise ValueError unless the kernels can run where the tensor is."""
    check_device(tensor, chunk_sums_kernel, "lightning_attn2_state", "lightning_attn2_state_torch")


def forward(call: StateCall) -> Tensor:
    """Compute the states that `StateCall.shape` describes, in fp32."""
    chunks = _chunks(call)
    k, v = unit_last_stride(call.k), unit_last_stride(call.v)
    b, kv_heads, _, d = k.shape
    e, tiles = v.shape[3], chunks.tiles
    sums = torch.empty((b, call.heads, chunks.places, d, e), dtype=torch.float32, device=k.device)
    if sums.numel():
        _sums(
            (b * call.heads * chunks.places * tiles.split_e, 1, 1),
            (k, v, sums, chunks.slopes, chunks.bounds),
            call.scale,
            (
                *chunks.numbers(call), call.sequences(), call.heads // kv_heads, *k.stride()[:3],
                *v.stride()[:3], d, e, tiles.block, tiles.block_d, tiles.block_e,
                chunks.slopes is not None, chunks.bounds is not None, not call.every, call.reverse,
                tiles.precision,
            ),
            (("num_warps", tiles.warps), ("num_stages", tiles.stages)),
        )  # fmt: skip
    initial = None if call.initial_state is None else call.initial_state.to(torch.float32).contiguous()
    final = None if call.every else torch.empty(call.shape(), dtype=torch.float32, device=k.device)
    if call.sequences() * call.heads:
        _states(
            _grid(call, d * e),
            (sums, initial, final, chunks.slopes, chunks.bounds),
            None,
            (
                *chunks.numbers(call), d * e, _TILE, chunks.slopes is not None, initial is not None,
                final is not None, chunks.bounds is not None, call.reverse,
            ),
            (("num_warps", 4),),
        )  # fmt: skip
    return sums if final is None else final


def backward(grad: Tensor, call: StateCall, needs: tuple[bool, bool, bool]) -> StateGradients:
    """Compute those gradients of k, v and the initial state that `needs` asks for."""
    chunks = _chunks(call)
    k, v = unit_last_stride(call.k), unit_last_stride(call.v)
    b, _, _, d = k.shape
    e = v.shape[3]
    total = torch.empty((b, call.heads, chunks.places, d, e), dtype=torch.float32, device=k.device)
    initial = d_initial = None
    if needs[2] and call.initial_state is not None:
        initial = torch.empty(call.initial_state.shape, dtype=torch.float32, device=k.device)
        d_initial = initial
    if call.sequences() * call.heads:
        _grads(
            _grid(call, d * e),
            (grad.to(torch.float32).contiguous(), total, initial, chunks.slopes, chunks.bounds),
            None,
            (
                *chunks.numbers(call), d * e, _TILE, chunks.slopes is not None, initial is not None,
                not call.every, chunks.bounds is not None,
            ),
            (("num_warps", 4),),
        )  # fmt: skip
    if initial is not None and call.initial_state is not None:
        d_initial = initial.to(call.initial_state.dtype)
    return StateGradients(
        _token_grads(call, chunks, v, call.k, total, (1, e)) if needs[0] else None,
        _token_grads(call, chunks, k, call.v, total, (e, 1)) if needs[1] else None,
        d_initial,
    )


def _grid(call: StateCall, size: int) -> tuple[int, int, int]:
    return call.sequences() * call.heads * -(-size // _TILE), 1, 1


def _token_grads(
    call: StateCall, chunks: _Chunks, x: Tensor, like: Tensor, total: Tensor, strides: tuple[int, int]
) -> Tensor:
    """Return the gradient of `like`, k or v, of which `x` is the other one."""
    b, kv_heads, n, width = like.shape
    grad = empty_like(like)
    out = grad if kv_heads == call.heads else like.new_empty(b, call.heads, n, width)
    if chunks.bounds is not None:  # rows of no sequence
        out.zero_()
    elif not out.numel():
        return grad
    tiles = state_grad_tiles(x.shape[3], width, x.dtype)
    if total.numel():
        _chunk_grads(
            (b * call.heads * chunks.places * tiles.split_e, 1, 1),
            (x, total, out, chunks.slopes, chunks.bounds),
            None,
            (
                *chunks.numbers(call), call.sequences(), call.heads // kv_heads, *x.stride()[:3],
                *out.stride()[:3], *strides, x.shape[3], width, tiles.block, tiles.block_d, tiles.block_e,
                chunks.slopes is not None, chunks.bounds is not None, tiles.precision,
            ),
            (("num_warps", tiles.warps), ("num_stages", tiles.stages)),
        )  # fmt: skip
    sum_groups(out, grad)
    return grad
