"""The kernel that measures how fast a GPU reads: from its memory once, or from its L2 again and again."""

import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator]
def read_kernel(source_ptr, sums_ptr, blocks, turns, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Each program adds up `turns` of the `blocks` blocks of BLOCK fp32 values, into its own block.

    At any time all programs read different blocks. Loads bypass the L1, which would serve small tensors.
    """
    program = tl.program_id(0)
    column = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for turn in range(turns):
        block = ((program + turn * tl.num_programs(0)) % blocks).to(tl.int64)
        total += tl.load(source_ptr + block * BLOCK + column, cache_modifier=".cg")
    tl.store(sums_ptr + program * BLOCK + column, total)
