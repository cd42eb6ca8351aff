"""The kernel that measures how fast a GPU streams: it reads some arrays and writes others."""

import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator]
def mix_kernel(  # type: ignore[no-untyped-def]
    arrays_ptr, elements, READS: tl.constexpr, WRITES: tl.constexpr, BLOCK: tl.constexpr
):
    """Each program writes the sum of its block of READS fp32 arrays to its block of the WRITES behind them.

    Every array has `elements` elements, a multiple of BLOCK. If nothing is to be written, a sum is stored
    only where it is NaN, which none is: without a store, the compiler would leave out the loads.
    """
    length = tl.cast(elements, tl.int64)
    column = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    total = tl.full([BLOCK], 1.0, tl.float32)
    for array in tl.static_range(READS):
        total += tl.load(arrays_ptr + array * length + column)
    for array in tl.static_range(WRITES):
        tl.store(arrays_ptr + (READS + array) * length + column, total)
    if WRITES == 0:
        tl.store(arrays_ptr + column, total, mask=total != total)
