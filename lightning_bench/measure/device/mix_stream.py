"""The bandwidth of a GPU at a mix of reads and writes, by a kernel that does nothing else."""

from __future__ import annotations

import torch

from lightning_bench.machine.mix import Mix
from lightning_bench.measure.device.best_time import best_ms

# So large that a launch and what is left in the L2 are a small part of a per cent or two.
_BYTES = 2**32
# Of the memory that is free, no more than this share is taken.
_FREE_SHARE = 4
_REPEATS = 5
# Elements of a block, and warps: which of them is the fastest depends on the GPU and on the number of arrays.
_TILES = ((1024, 4), (2048, 4), (4096, 8), (8192, 8))
_LARGEST_BLOCK = max(block for block, _ in _TILES)


def mix_gbps(mix: Mix) -> float | None:
    """Return the best bandwidth of a stream with this mix, GB/s; None if Triton cannot compile here."""
    arrays = mix.reads + mix.writes
    size = min(_BYTES, torch.cuda.mem_get_info()[0] // _FREE_SHARE) // 4  # in elements
    elements = size // arrays // _LARGEST_BLOCK * _LARGEST_BLOCK
    memory = torch.randn(arrays * elements, device="cuda")
    try:
        ms = min(_stream_ms(memory, mix, elements, block, warps) for block, warps in _TILES)
    except Exception:  # no Triton, no C compiler for it, no such GPU in it: rows have the copy's then
        return None
    return memory.nbytes / ms / 1e6


def _stream_ms(memory: torch.Tensor, mix: Mix, elements: int, block: int, warps: int) -> float:
    from lightning_bench.measure.device.mix_kernel import mix_kernel

    grid = (elements // block,)
    return best_ms(
        lambda: mix_kernel[grid](
            memory, elements, READS=mix.reads, WRITES=mix.writes, BLOCK=block, num_warps=warps
        ),
        _REPEATS,
        "cuda",
    )
