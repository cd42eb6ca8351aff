"""The kernel that notes, on each multiprocessor, its cycle counter and the time."""

import triton
import triton.language as tl


@triton.jit
def stamp_kernel(stamps_ptr, slots):  # type: ignore[no-untyped-def]
    """Store cycles and ns as one pair of int64 in the slot of the multiprocessor that runs the program.

    Launched with one warp for each multiprocessor, so that each runs one. `slots` bounds their numbers.
    """
    sm = tl.inline_asm_elementwise("mov.u32 $0, %smid;", "=r", [], tl.int32, is_pure=False, pack=1)
    cycles = tl.inline_asm_elementwise("mov.u64 $0, %clock64;", "=l", [], tl.int64, is_pure=False, pack=1)
    ns = tl.inline_asm_elementwise("mov.u64 $0, %globaltimer;", "=l", [], tl.int64, is_pure=False, pack=1)
    known = sm < slots
    tl.store(stamps_ptr + 2 * sm, cycles, mask=known)
    tl.store(stamps_ptr + 2 * sm + 1, ns, mask=known)
