"""States between segments of a head that hardly decays, whose window is longer than a segment.

Walking over that window before each segment would take as long as not cutting the sequence. Instead each
program walks over its own blocks twice: first to leave what they add to the state, a sum E in fp32, and then,
from the state that enters the segment, to compute rows. That state is the sum of the segments before,

    S_j = λ^C S_{j−1} + E_{j−1},

C tokens being the length of a segment. A program adds up all terms that count by itself, in this order, so
that the result does not depend on who comes first.

It waits only for programs with smaller numbers. The device starts programs in the order of their numbers, so
these run, or have ended: nobody waits for a program that cannot start.
"""

import triton.experimental.gluon.language as gl
from triton.experimental import gluon
from triton.language.core import _aggregate as aggregate

from .rings import barrier, value_of


@aggregate
class Exchange:
    """Where the segments of a walk leave their sums, and which of them a segment adds up.

    Sums are [places, rows, columns] in fp32 and flags [places] in int32, zeros at the launch. The first
    segment of a sequence has a place of its own, the others have places one after another. A flag counts the
    threads that have written a sum.
    """

    sums_ptr: gl.tensor | gl.constexpr  # None: sequences are not cut
    flags_ptr: gl.tensor | gl.constexpr
    first: gl.tensor  # the place of the first segment
    second: gl.tensor  # the place of the second
    segment: gl.tensor
    earliest: gl.tensor  # the first segment whose sum counts
    chunk: gl.tensor  # blocks of a segment
    lasting: gl.tensor  # whether this segment takes its state from sums
    leaves: gl.tensor  # whether it leaves a sum

    @gluon.constexpr_function
    def __init__(self, sums_ptr, flags_ptr, first, second, segment, earliest, chunk, lasting, leaves):  # type: ignore[no-untyped-def]
        self.sums_ptr, self.flags_ptr = value_of(sums_ptr), value_of(flags_ptr)
        self.first, self.second = first, second
        self.segment, self.earliest = segment, earliest
        self.chunk, self.lasting, self.leaves = chunk, lasting, leaves

    @gluon.jit
    def place(self, segment):  # type: ignore[no-untyped-def]
        """Return the place of a segment, or of each of several."""
        return gl.where(segment == 0, self.first, self.second + segment - 1)


@aggregate
class Extent:
    """Where the elements of a state in memory are, and which of them a tile holds."""

    first_row: gl.tensor | gl.constexpr
    row_end: gl.tensor | gl.constexpr
    row_step: gl.tensor | gl.constexpr
    first_col: gl.tensor | gl.constexpr
    col_end: gl.tensor | gl.constexpr
    col_step: gl.tensor | gl.constexpr

    @gluon.constexpr_function
    def __init__(self, first_row, row_end, row_step, first_col, col_end, col_step):  # type: ignore[no-untyped-def]
        self.first_row, self.first_col = value_of(first_row), value_of(first_col)
        self.row_end, self.col_end = value_of(row_end), value_of(col_end)
        self.row_step, self.col_step = value_of(row_step), value_of(col_step)


@gluon.jit
def _announce(flags):  # type: ignore[no-untyped-def]
    """Count every thread at its flag, once what it has written before can be seen by the whole device."""
    gl.inline_asm_elementwise(
        "red.release.gpu.global.add.u32 [$1], 1; mov.u32 $0, 0;",
        "=r,l", [flags], dtype=gl.int32, is_pure=False, pack=1,
    )  # fmt: skip


@gluon.jit
def _await(flags, count):  # type: ignore[no-untyped-def]
    """Let every thread wait until its flag has reached `count`."""
    gl.inline_asm_elementwise(
        "{.reg .pred done; .reg .u32 found; again: ld.acquire.gpu.global.u32 found, [$1]; "
        "setp.ge.u32 done, found, $2; @!done bra again; mov.u32 $0, found;}",
        "=r,l,r", [flags, count], dtype=gl.int32, is_pure=False, pack=1,
    )  # fmt: skip


@gluon.constexpr_function  # type: ignore[untyped-decorator]
def _vector_layout(rows: int, columns: int) -> gl.DistributedLinearLayout:
    """Return the layout of `_as_vectors`.

    Of the low bits of the first index, five are the lane's and two the warp's.
    """
    count = rows * columns // 4
    bases = [[1 << bit, 0] for bit in range(count.bit_length() - 1)]
    return gl.DistributedLinearLayout(
        reg_bases=[[0, 1], [0, 2], *bases[7:]],
        lane_bases=bases[:5],
        warp_bases=bases[5:7],
        block_bases=[],
        shape=[count, 4],
    )


@gluon.jit  # type: ignore[untyped-decorator]
def _places_of_vectors(ROWS: gl.constexpr, COLUMNS: gl.constexpr):  # type: ignore[no-untyped-def]
    """Return where the elements of `_as_vectors` lie in a sum."""
    layout: gl.constexpr = _vector_layout(ROWS, COLUMNS)
    number = gl.arange(0, ROWS * COLUMNS // 4, gl.SliceLayout(1, layout))
    return number[:, None] * 4 + gl.arange(0, 4, gl.SliceLayout(0, layout))[None, :]


@gluon.jit
def _as_vectors(state):  # type: ignore[no-untyped-def]
    """Return a state as [·, 4] without moving it: a thread's four are in rows r and r + 8 and two columns."""
    ROWS: gl.constexpr = state.shape[0]
    COLUMNS: gl.constexpr = state.shape[1]
    split = gl.permute(gl.reshape(state, [ROWS // 16, 2, 8, COLUMNS // 8, 4, 2]), (3, 0, 2, 4, 1, 5))
    return gl.convert_layout(gl.reshape(split, [ROWS * COLUMNS // 4, 4]), _vector_layout(ROWS, COLUMNS))


@gluon.jit  # type: ignore[untyped-decorator]
def _from_vectors(  # type: ignore[no-untyped-def]
    vectors, ROWS: gl.constexpr, COLUMNS: gl.constexpr, layout: gl.constexpr
):
    """Undo `_as_vectors`."""
    split = gl.reshape(vectors, [COLUMNS // 8, ROWS // 16, 8, 4, 2, 2])
    return gl.convert_layout(gl.reshape(gl.permute(split, (1, 4, 2, 0, 3, 5)), [ROWS, COLUMNS]), layout)


@gluon.jit  # type: ignore[untyped-decorator]
def _sum_of_vectors(exchange, decay, ROWS: gl.constexpr, COLUMNS: gl.constexpr):  # type: ignore[no-untyped-def]
    """Add up the sums before a segment as vectors, two at a time where a thread has registers for two."""
    SIZE: gl.constexpr = ROWS * COLUMNS
    layout: gl.constexpr = _vector_layout(ROWS, COLUMNS)
    tile = _places_of_vectors(ROWS, COLUMNS)
    total = gl.zeros([SIZE // 4, 4], gl.float32, layout)
    if SIZE <= 64 * 128:
        for other in range(exchange.earliest, exchange.segment, 2):
            next_one = gl.minimum(other + 1, exchange.segment - 1)
            one = gl.load(exchange.sums_ptr + exchange.place(other).to(gl.int64) * SIZE + tile)
            two = gl.load(exchange.sums_ptr + exchange.place(next_one).to(gl.int64) * SIZE + tile)
            total = total * decay + one
            total = gl.where(other < next_one, total * decay + two, total)
    else:
        for other in range(exchange.earliest, exchange.segment):
            total = total * decay + gl.load(
                exchange.sums_ptr + exchange.place(other).to(gl.int64) * SIZE + tile
            )
    return total


@gluon.jit  # type: ignore[untyped-decorator]
def exchanged(  # type: ignore[no-untyped-def]
    exchange, state, decay, initial_ptr, has_initial, extent, layout: gl.constexpr
):
    """Leave `state`, the sum of this segment, and return the state that enters the segment.

    Sums go through memory in the order of registers, 16 bytes of a thread at a time, unless an initial state
    is one of them, which lies there by rows.

    `layout` is the state's, and `decay` that of a segment. The initial state, whose place in memory is
    `extent`, counts where `earliest` is the first segment of the sequence.
    """
    ROWS: gl.constexpr = state.shape[0]
    COLUMNS: gl.constexpr = state.shape[1]
    THREADS: gl.constexpr = 32 * gl.num_warps()
    row = gl.arange(0, ROWS, gl.SliceLayout(1, layout))
    col = gl.arange(0, COLUMNS, gl.SliceLayout(0, layout))
    tile = row[:, None] * COLUMNS + col[None, :]
    thread = gl.arange(0, THREADS, gl.BlockedLayout([1], [32], [gl.num_warps()], [0]))
    if exchange.leaves:
        place = exchange.place(exchange.segment)
        left_at = exchange.sums_ptr + place.to(gl.int64) * (ROWS * COLUMNS)
        if initial_ptr is None:
            gl.store(left_at + _places_of_vectors(ROWS, COLUMNS), _as_vectors(state))
        else:
            gl.store(left_at + tile, state)
        _announce(exchange.flags_ptr + place + thread * 0)
    for first in range(exchange.earliest, exchange.segment, THREADS):
        other = first + thread
        before = other < exchange.segment
        place = exchange.place(gl.where(before, other, first))
        _await(exchange.flags_ptr + place, gl.where(before, THREADS, 0))
    barrier()
    if initial_ptr is None:
        total = _from_vectors(_sum_of_vectors(exchange, decay, ROWS, COLUMNS), ROWS, COLUMNS, layout)
    else:
        total = gl.zeros_like(state)
        # One load for both: registers for two would be missing in the loops.
        for other in range(exchange.earliest - gl.where(has_initial, 1, 0), exchange.segment):
            given = other < exchange.earliest
            row_step = gl.where(given, extent.row_step, COLUMNS)
            col_step = gl.where(given, extent.col_step, 1)
            first_row = gl.where(given, extent.first_row, 0)
            first_col = gl.where(given, extent.first_col, 0)
            row_end = gl.where(given, extent.row_end - first_row, ROWS)
            col_end = gl.where(given, extent.col_end - first_col, COLUMNS)
            sum_ptr = exchange.sums_ptr + exchange.place(gl.maximum(other, 0)).to(gl.int64) * (ROWS * COLUMNS)
            source = gl.where(given, initial_ptr, sum_ptr)
            source += first_row * row_step + first_col * col_step
            at = row[:, None] * row_step + col[None, :] * col_step
            inside = (row[:, None] < row_end) & (col[None, :] < col_end)
            total = total * decay + gl.load(source + at, mask=inside, other=0.0)
    return total
