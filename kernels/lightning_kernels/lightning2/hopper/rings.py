"""What the warps of a Hopper program share: a ring of blocks, copies of the state, and the values of a walk.

Each place of a ring is used many times. Its k-th use (k = 0, 1, …) is phase k of two mbarriers: the writer
completes phase k of the first when the place is filled, and the readers complete phase k of the second when
they have read it. `Ring` and `States` own these barriers and their parities:

    writer: place = acquire(n) → write → publish(place)
    reader: place = wait(n) → read → release(place)

where n counts the blocks, or copies of the state, that go through the ring. Every thread of a role calls
these methods. An aggregate is flattened into its fields when it is passed to a function: it costs nothing.
"""

import triton.experimental.gluon.language as gl
from triton.experimental import gluon
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma
from triton.language.core import _aggregate as aggregate

from ..tiles import HOPPER_BLOCK

BLOCK = gl.constexpr(HOPPER_BLOCK)
"""Tokens of a block."""
barrier = gl.barrier if hasattr(gl, "barrier") else gl.thread_barrier
"""Among the threads of a program, or within warp_specialize of a role; its name differs between releases."""


@gluon.constexpr_function
def value_of(x):  # type: ignore[no-untyped-def]
    """Return x as a field of an aggregate: constants arrive here unwrapped, as None or numbers."""
    return gl.constexpr(x) if x is None or isinstance(x, (bool, int, float)) else x


@gluon.jit
def _parity(n, places):  # type: ignore[no-untyped-def]
    """Return the parity of the phase whose end the readers of number n of a ring wait for.

    The writer waits for the end of the phase before, of the opposite parity. Before the first phase a barrier
    counts as past such a phase, so that the writer does not wait for places that were never used.
    """
    return (n // places) & 1


@aggregate
class Ring:
    """The ring of blocks of q, k and v from the loader to its readers, the state's and the output's warps."""

    q: gl.shared_memory_descriptor  # [stages, BLOCK, block_d]
    k: gl.shared_memory_descriptor  # [stages, BLOCK, block_d]
    v: gl.shared_memory_descriptor  # [stages, BLOCK, columns]
    full: gl.shared_memory_descriptor
    empty: gl.shared_memory_descriptor
    stages: gl.constexpr

    @gluon.constexpr_function
    def __init__(self, q, k, v, full, empty, stages):  # type: ignore[no-untyped-def]
        self.q, self.k, self.v = q, k, v
        self.full, self.empty = full, empty
        self.stages = gl.constexpr(stages)

    @gluon.jit
    def acquire(self, turn):  # type: ignore[no-untyped-def]
        """Wait until the stage of block `turn` of the walk may be written; return its index."""
        stage = turn % self.stages
        mbarrier.wait(self.empty.index(stage), _parity(turn, self.stages) ^ 1)
        return stage

    @gluon.jit
    def publish(self, stage):  # type: ignore[no-untyped-def]
        """Arrive, for this thread, once its copies (cp.async) are complete; TMA arrives itself."""
        async_copy.mbarrier_arrive(self.full.index(stage), increment_count=False)

    @gluon.jit
    def wait(self, turn, wanted=True):  # type: ignore[no-untyped-def]
        """Wait, if `wanted`, until block `turn` of the walk is loaded; return the index of its stage."""
        stage = turn % self.stages
        mbarrier.wait(self.full.index(stage), _parity(turn, self.stages), pred=wanted)
        return stage

    @gluon.jit
    def release(self, stage):  # type: ignore[no-untyped-def]
        """Give a stage back, by each thread for itself, which needs no barrier among them."""
        async_copy.mbarrier_arrive(self.empty.index(stage), increment_count=False)


@aggregate
class States:
    """The ring of rounded copies of the state from the state's warps to the output's.

    In pairs two copies share one fence and one `ready` barrier, and the first copy is number 1, not 0.
    `tiles` are [copies, columns, block_d], with fewer than 64 columns [copies, block_d, columns].
    """

    tiles: gl.shared_memory_descriptor
    ready: gl.shared_memory_descriptor
    taken: gl.shared_memory_descriptor
    copies: gl.constexpr
    together: gl.constexpr  # copies per `ready` barrier: 2 in pairs, else 1

    @gluon.constexpr_function
    def __init__(self, tiles, ready, taken, copies, together):  # type: ignore[no-untyped-def]
        self.tiles, self.ready, self.taken = tiles, ready, taken
        self.copies = gl.constexpr(copies)
        self.together = gl.constexpr(together)

    @gluon.jit
    def acquire(self, copy):  # type: ignore[no-untyped-def]
        """Wait until copy number `copy`, and in pairs the next, may be written; return the first place."""
        place = copy % self.copies
        parity = _parity(copy, self.copies) ^ 1
        for i in gl.static_range(self.together):
            mbarrier.wait(self.taken.index(place + i), parity)
        return place

    @gluon.jit
    def publish(self, place):  # type: ignore[no-untyped-def]
        """Announce the copies of a turn; the fence covers what the loader wrote, too, for all readers."""
        fence_async_shared()
        mbarrier.arrive(self.ready.index(place // self.together), count=1)

    @gluon.jit
    def wait(self, copy, wanted=True):  # type: ignore[no-untyped-def]
        """Wait, if `wanted`, until copy number `copy` is ready; return its place."""
        place = copy % self.copies
        mbarrier.wait(self.ready.index(place // self.together), _parity(copy, self.copies), pred=wanted)
        return place

    @gluon.jit
    def release(self, place):  # type: ignore[no-untyped-def]
        """Give a place back, by each thread for itself."""
        async_copy.mbarrier_arrive(self.taken.index(place), increment_count=False)


@aggregate
class Walk:
    """The blocks of one segment of a sequence of `steps` tokens.

    Rows of o are computed of blocks main…last−1. Before them `main − first` blocks are only walked over, from
    block `first + later` on: those just before `main`, or with `later` those of the segment itself. Number
    `block − first` of the ring is of `block`. Row `flip ^ r` of a tile is of step r of its block: `flip` is
    0, or 63 where tokens lie in the opposite order.
    """

    first: gl.tensor
    main: gl.tensor
    last: gl.tensor
    later: gl.tensor
    steps: gl.tensor
    flip: gl.tensor | gl.constexpr

    @gluon.constexpr_function
    def __init__(self, first, main, last, later, steps, flip):  # type: ignore[no-untyped-def]
        self.first, self.main, self.last, self.later, self.steps = first, main, last, later, steps
        self.flip = value_of(flip)


@aggregate
class Bounds:
    """The dims of q and k, and of v and o, and the program's first column of v."""

    key_dim: gl.tensor | gl.constexpr
    value_dim: gl.tensor | gl.constexpr
    first_e: gl.tensor
    full_d: gl.constexpr  # whether key_dim fills its tile, so that no mask is needed
    full_e: gl.constexpr

    @gluon.constexpr_function
    def __init__(self, key_dim, value_dim, first_e, full_d, full_e):  # type: ignore[no-untyped-def]
        self.key_dim, self.value_dim = value_of(key_dim), value_of(value_dim)
        self.first_e = first_e
        self.full_d, self.full_e = gl.constexpr(full_d), gl.constexpr(full_e)


@aggregate
class Decay:
    """The slope and the scales of a head.

    A token of step j of a block of B tokens is written to the state with weight scale_write·λ^(B−j−offset)
    and reads it with weight scale_read·λ^(j+offset); within a block weights are scale_scores·λ^(i−j).
    """

    slope_ptr: gl.tensor | gl.constexpr  # None: no decay
    scale_read: gl.tensor | gl.constexpr
    scale_write: gl.tensor | gl.constexpr
    scale_scores: gl.tensor | gl.constexpr
    offset: gl.tensor

    @gluon.constexpr_function
    def __init__(self, slope_ptr, scale_read, scale_write, scale_scores, offset):  # type: ignore[no-untyped-def]
        self.slope_ptr = value_of(slope_ptr)
        self.scale_read, self.scale_write = value_of(scale_read), value_of(scale_write)
        self.scale_scores = value_of(scale_scores)
        self.offset = offset


@aggregate
class Ends:
    """The state [key_dim, value_dim] that enters a sequence and the one that leaves it, in fp32 or bf16."""

    initial_ptr: gl.tensor | gl.constexpr  # None: zeros
    final_ptr: gl.tensor | gl.constexpr  # None: not wanted
    stride_d: gl.tensor | gl.constexpr
    stride_e: gl.tensor | gl.constexpr
    has_initial: gl.tensor  # whether this segment begins with the initial state
    has_final: gl.tensor

    @gluon.constexpr_function
    def __init__(self, initial_ptr, final_ptr, stride_d, stride_e, has_initial, has_final):  # type: ignore[no-untyped-def]
        self.initial_ptr, self.final_ptr = value_of(initial_ptr), value_of(final_ptr)
        self.stride_d, self.stride_e = value_of(stride_d), value_of(stride_e)
        self.has_initial, self.has_final = has_initial, has_final


@aggregate
class Rows:
    """Rows of q, k, v and o: pointers to the token visited first, and how far it is to the next."""

    q_ptr: gl.tensor
    k_ptr: gl.tensor
    v_ptr: gl.tensor
    q_step: gl.tensor
    k_step: gl.tensor
    v_step: gl.tensor
    out_ptr: gl.tensor
    out_step: gl.tensor

    @gluon.constexpr_function
    def __init__(self, q_ptr, k_ptr, v_ptr, q_step, k_step, v_step, out_ptr, out_step):  # type: ignore[no-untyped-def]
        self.q_ptr, self.k_ptr, self.v_ptr, self.out_ptr = q_ptr, k_ptr, v_ptr, out_ptr
        self.q_step, self.k_step, self.v_step, self.out_step = q_step, k_step, v_step, out_step


@aggregate
class Boxes:
    """TMA descriptors of tiles [1, 1, BLOCK, ·] of [b, h, n, ·], or None, and what to read.

    Forward those of q and k have block_d columns, and that of v as many as the program. Backward each tensor
    is read whole in some role: `q`, `k`, `v` and `g` have block_d columns, and `part_` those of the program.
    """

    q: tma.tensor_descriptor | gl.constexpr
    k: tma.tensor_descriptor | gl.constexpr
    v: tma.tensor_descriptor | gl.constexpr
    g: tma.tensor_descriptor | gl.constexpr
    part_q: tma.tensor_descriptor | gl.constexpr
    part_k: tma.tensor_descriptor | gl.constexpr
    part_g: tma.tensor_descriptor | gl.constexpr
    sequence: gl.tensor
    head: gl.tensor
    kv_head: gl.tensor
    role: gl.tensor

    @gluon.constexpr_function
    def __init__(self, q, k, v, g, part_q, part_k, part_g, sequence, head, kv_head, role):  # type: ignore[no-untyped-def]
        self.q, self.k, self.v, self.g = value_of(q), value_of(k), value_of(v), value_of(g)
        self.part_q, self.part_k, self.part_g = value_of(part_q), value_of(part_k), value_of(part_g)
        self.sequence, self.head, self.kv_head, self.role = sequence, head, kv_head, role
