"""Mistakes in the Hopper kernel that the emulator must find: each is one edit of its source.

A mutant must fail in one of the same trials that the kernel itself passes. An edit whose text is no longer in
the source fails with `StaleEditError`: write it anew for the code as it is.
"""

from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch

from tests.support.gluon_emulator.errors import HazardError, StaleEditError
from tests.support.gluon_emulator.source import Edit
from tests.support.gluon_emulator.trials import Trial, run

SEEDS = (1, 2, 3)

PAIRS = Trial(n=540, processors=1, initial=True, final=True)
BOXES = Trial(n=580, boxes=True, initial=True, slopes=(0.02, 0.0))
AHEAD = Trial(n=1024, heads=1, kv_heads=1, slopes=(0.05,), initial=True, final=True, exchange=False)
DEEP = Trial(n=340, head_dim=128, value_dim=128, heads=1, kv_heads=1, slopes=(0.02,), processors=1)
WIDE = Trial(n=200, head_dim=256, value_dim=192, slopes=(0.3, 50.0), wide=True, processors=1, backward=False)
RAGGED = Trial(n=70, head_dim=80, value_dim=48, final=True, initial=True)
GROUPED = Trial(n=70, heads=4, slopes=(0.3, 0.2, 0.1, 0.0), layouts=("bhnd", "sliced", "bnhd", "strided"))
PACKED = Trial(n=300, bounds=(0, 65, 65, 300), initial=True, final=True)
PADDED = Trial(n=500, bounds=(0, 65, 100))
WINDOW = Trial(n=2048, heads=1, kv_heads=1, slopes=(0.02,), outlier=255, backward=False, exchange=False)
MEMORY = replace(PAIRS, slopes=(0.005, 0.0), outlier=0, backward=False)
SLOW = replace(AHEAD, slopes=(0.001,))
LASTING = replace(SLOW, exchange=True, dtype=torch.float16)
DOCUMENTS = replace(LASTING, n=2200, bounds=(0, 64, 64, 2000, 2100), processors=16)
TURNED = replace(WIDE, value_dim=256, slopes=(0.3, 0.05), backward=True)
VECTORS = replace(LASTING, initial=False, slopes=(0.003,))
ONE_BLOCK = Trial(n=64, processors=1)
SHALLOW = Trial(n=1024, head_dim=256, value_dim=64, heads=1, kv_heads=1, slopes=(0.05,), backward=False)

TRIALS = {
    "pairs": PAIRS, "boxes": BOXES, "ahead": AHEAD, "deep": DEEP, "wide": WIDE, "ragged": RAGGED,
    "grouped": GROUPED, "memory": MEMORY, "slow": SLOW, "lasting": LASTING, "documents": DOCUMENTS,
    "packed": PACKED, "padded": PADDED, "window": WINDOW,
    "turned": TURNED, "vectors": VECTORS,
    "one block": ONE_BLOCK, "shallow": SHALLOW, "steep": replace(WIDE, slopes=(1e30, 0.3)),
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One mistake and the trial that must find it."""

    name: str
    trial: str
    edits: tuple[Edit, ...]


def mutant(name: str, trial: str, *edits: tuple[str, str, str] | tuple[str, str, str, int]) -> Mutant:
    """Return a mutant; an edit is (file, old text, new text) and how often the text is in the file."""
    files = {"cuts": "cuts.py"}
    return Mutant(
        name, trial, tuple(Edit(files.get(file, f"hopper/{file}.py"), *rest) for file, *rest in edits)
    )


WAITS = (
    mutant("loader overwrites a stage without waiting for `empty`", "pairs",
           ("rings", "mbarrier.wait(self.empty.index(stage), _parity(turn, self.stages) ^ 1)", "pass")),
    mutant("readers do not wait for `full`", "pairs",
           ("rings", "mbarrier.wait(self.full.index(stage), _parity(turn, self.stages), pred=wanted)",
                     "pass")),
    mutant("output does not wait for `ready`", "deep",
           ("rings", "mbarrier.wait(self.ready.index(place // self.together), "
                     "_parity(copy, self.copies), pred=wanted)", "pass")),
    mutant("state overwrites a copy without waiting for `taken`", "deep",
           ("rings", "mbarrier.wait(self.taken.index(place + i), parity)", "pass")),
    mutant("a pair waits for one of its two copies", "pairs",
           ("rings", "for i in gl.static_range(self.together):", "for i in gl.static_range(1):")),
    mutant("scores are used in flight", "ragged",
           ("output", "warpgroup_mma_wait(1, deps=[p])", "warpgroup_mma_wait(2, deps=[p])", 2)),
    mutant("the second product of a pair is not waited for", "pairs",
           ("state", "warpgroup_mma_wait(0, deps=[state, gain])",
                     "warpgroup_mma_wait(1, deps=[state, gain])")),
    mutant("output follows `full` where it must follow `ready`", "shallow",
           ("output", "state = states.tiles.index(states.wait(copy, wanted))\n",
                      "state = states.tiles.index(copy % states.copies)\n    ring.wait(turn, wanted)\n"),
           ("output", "    zero = gl.zeros([BLOCK, COLUMNS], gl.float32, tall)\n",
                      "    states.wait(copy, wanted)\n"
                      "    zero = gl.zeros([BLOCK, COLUMNS], gl.float32, tall)\n")),
)  # fmt: skip
FENCES = (
    mutant("no fence before a copy of the state is announced", "ragged",
           ("rings", "fence_async_shared()\n        mbarrier.arrive", "mbarrier.arrive")),
    mutant("no fence before the products of blocks that are walked over", "ahead",
           ("state", "fence_async_shared()\n            state = warpgroup_mma", "state = warpgroup_mma")),
    mutant("no fence after barriers are initialised", "boxes",
           ("kernel", "fence_async_shared()\n    barrier()", "barrier()")),
)  # fmt: skip
EARLY_RELEASES = (
    mutant("output gives a stage back before its last product", "deep",
           ("output", "o = warpgroup_mma_wait(0, deps=[o])\n        ring.release(stage)",
                      "ring.release(stage)\n        o = warpgroup_mma_wait(0, deps=[o])")),
    mutant("output gives a copy back before the product with it", "deep",
           ("output", "            states.release(copy % states.copies)", "            pass"),
           ("output", "        o = warpgroup_mma_wait(0, deps=[o]) * read[:, None]\n        # A copy",
                      "        if not TILES.pairs or later < last:\n"
                      "            states.release(copy % states.copies)\n"
                      "        o = warpgroup_mma_wait(0, deps=[o]) * read[:, None]\n        # A copy")),
    mutant("wide output gives a copy back before the product with it", "wide",
           ("wide", "o = warpgroup_mma_wait(0, deps=[o])  # [i, columns]\n        states.release(0)",
                    "states.release(0)\n        o = warpgroup_mma_wait(0, deps=[o])")),
    mutant("a pair gives its stages back before their products", "pairs",
           ("state", "        ring.release(one)\n        ring.release(two)\n", ""),
           ("state", "        state, gain = warpgroup_mma_wait(0, deps=[state, gain])\n",
                     "        ring.release(one)\n        ring.release(two)\n"
                     "        state, gain = warpgroup_mma_wait(0, deps=[state, gain])\n")),
    mutant("a group gives its stages back before their products", "ahead",
           ("state", "warpgroup_mma_wait(1, deps=[state])", "warpgroup_mma_wait(2, deps=[state])")),
    mutant("loader publishes a stage before its last copy", "ragged",
           ("loader", "        ring.publish(stage)\n", ""),
           ("loader", "        _copy_tile(\n            ring.v.index(stage)",
                      "        ring.publish(stage)\n        _copy_tile(\n            ring.v.index(stage)")),
)  # fmt: skip
DECAYS = (
    mutant("a group decays by one block", "ahead", ("state", "TILES.group * BLOCK)", "BLOCK)")),
    mutant("a block decays by one token too few", "memory",
           ("state", "_decay_of(decay.slope_ptr, steps, BLOCK)",
                     "_decay_of(decay.slope_ptr, steps, BLOCK - 1)")),
    mutant("the ragged last block decays as a whole one", "ragged",
           ("state", "last_decay = exp2(-slope * ((steps - 1) % BLOCK + 1).to(gl.float32))",
                     "last_decay = decays[0]")),
    mutant("the state is read with the decay of a token too few", "ragged",
           ("output", "(i + decay.offset).to", "i.to")),
    mutant("slopes are taken for powers of two", "ragged", ("state", "* 1.4426950408889634", "* 1.0")),
    mutant("the wide kernel's weights are a row off", "wide", ("wide", "(i & 8) + 4)", "(i & 8) + 3)")),
    mutant("the wide kernel's weights overflow for steep slopes", "steep",
           ("wide", "gl.minimum(slope, 20.0)", "slope")),
)  # fmt: skip
SEGMENTS = (
    mutant("a segment begins anywhere", "ahead",
           ("kernel", "most) // _ALIGNED * _ALIGNED", "most)")),
    mutant("a segment ends where it begins", "ahead",
           ("kernel", "_start(segment + 1, share", "_start(segment, share")),
    mutant("only the first segment knows the initial state", "slow",
           ("kernel", "earliest == 0, first == 0)", "earliest == 0, segment == 0)")),
    mutant("the window is 6 / s", "window", ("cuts", "WINDOW = 20.8", "WINDOW = 6.0")),
    mutant("the window is a quarter of its blocks", "window",
           ("kernel", "/ BLOCK + 1.0", "/ BLOCK / 4.0")),
)  # fmt: skip
PARITIES = (
    mutant("readers wait for the other parity", "ragged",
           ("rings", "return (n // places) & 1", "return ((n // places) & 1) ^ 1")),
    mutant("the loader waits for the parity of readers", "ragged",
           ("rings", "_parity(turn, self.stages) ^ 1", "_parity(turn, self.stages)")),
    mutant("parities of copies change with every copy", "pairs",
           ("rings", "_parity(copy, self.copies), pred", "_parity(copy, 1), pred")),
)  # fmt: skip
COUNTS = (
    mutant("k is not copied", "ragged",
           ("loader", "        _copy_tile(ring.k.index(stage), k_ptr, inside, k_row, col, bounds.key_dim, "
                      "bounds.full_d, FEW)\n", "")),
    mutant("q of the first block whose rows are computed is not copied", "ahead",
           ("loader", "if turn >= walk.main - walk.first:", "if turn > walk.main - walk.first:")),
    mutant("TMA brings more bytes than are expected", "boxes",
           ("loader", "2 * wide + slim, pred", "wide + slim, pred")),
    mutant("more bytes are expected than TMA brings", "boxes",
           ("loader", "arrival, wide + slim, pred", "arrival, 2 * wide + slim, pred")),
    mutant("`empty` counts the output's warps only", "deep",
           ("kernel", "count=32 * gl.num_warps() + 128", "count=128")),
    mutant("`full` counts one warp", "ragged", ("kernel", "else 32 * LOADER_WARPS", "else 32")),
    mutant("`taken` counts one thread", "ragged",
           ("kernel", "mbarrier.init(taken.index(copy), count=128)",
                      "mbarrier.init(taken.index(copy), count=1)")),
    mutant("`ready` counts two", "ragged",
           ("kernel", "mbarrier.init(ready.index(copy), count=1)",
                      "mbarrier.init(ready.index(copy), count=2)")),
    mutant("blocks that are walked over are given back once", "ahead",
           ("state", "                ring.release((turn - 1) % ring.stages)\n"
                     "                ring.release((turn - 1) % ring.stages)\n",
                     "                ring.release((turn - 1) % ring.stages)\n")),
    mutant("a copy that was never written is given back", "one block",
           ("output", "if not TILES.pairs or later < last:", "if True:")),
)  # fmt: skip
MASKS = (
    mutant("the loader reads beyond the last token", "ragged",
           ("loader", "inside = row < left", "inside = row < BLOCK")),
    mutant("rows beyond the last token are stored", "ragged",
           ("output", "inside = (row < left)", "inside = (row < BLOCK)")),
    mutant("columns beyond the last are stored", "ragged",
           ("output", "inside & (col[None, :] < bounds.value_dim)", "inside")),
    mutant("scores are not causal", "ragged",
           ("output", "weight = gl.where(j[None, :] <= i[:, None], weight, 0.0)", "pass")),
    mutant("wide scores leave out the diagonal", "wide", ("wide", "setp.ge.s32", "setp.gt.s32")),
    mutant("tokens of a ragged last block are written as those of a whole one", "ragged",
           ("state", "gl.where(size < BLOCK, TILES.group, 0)", "0")),
    mutant("the same, where blocks go in pairs", "pairs", ("state", "gl.where(left < BLOCK, GROUP, 0)", "0")),
    mutant("the second block of a last pair is added where there is none", "pairs",
           ("state", "gl.where(block + 1 < walk.last, state * decay + gain, state)",
                     "state * decay + gain")),
)  # fmt: skip
OWNERS = (
    mutant("the first segment stores the final state", "ahead",
           ("kernel", "(last == blocks) & ((main < last) | (segment == 0))", "segment == 0")),
    mutant("every role stores the gradient of the initial state", "pairs",
           ("kernel", "is_dv & has_final", "has_final")),
    mutant("dq begins with the gradient of the final state", "pairs",
           ("kernel", "gl.where(is_dq, initial_ptr, grad_state_ptr)",
                      "gl.where(is_dq, grad_state_ptr, initial_ptr)")),
)  # fmt: skip
ROLES = (
    mutant("dk and dv swap the strides of what they read first", "grouped",
           ("kernel", "gl.where(is_dv, k_stride_n, v_stride_n)", "gl.where(is_dv, v_stride_n, k_stride_n)")),
    mutant("dk and dv walk from the first token", "ragged",
           ("kernel", "turn = gl.where(is_dq, 1, -1)", "turn = gl.where(is_dq, 1, 1)")),
    mutant("roles swap the strides of their states", "ragged",
           ("kernel", "gl.where(is_dv, E, 1), gl.where(is_dv, 1, E)",
                      "gl.where(is_dv, 1, E), gl.where(is_dv, E, 1)")),
    mutant("heads do not share k and v", "grouped", ("kernel", "kv_head = head // group", "kv_head = head")),
    mutant("dk and dv are not scaled", "ragged",
           ("kernel", "gl.where(is_dq, 1.0, scale)", "gl.where(is_dq, 1.0, 1.0)")),
    mutant("dk and dv decay as dq does", "ragged",
           ("kernel", "gl.where(is_dq, 1, 0))", "gl.where(is_dq, 1, 1))")),
    mutant("packed sequences end at the end of all", "packed",
           ("kernel", "steps = gl.load(offset_ptr + sequence + 1) - begin",
                      "steps = gl.load(offset_ptr + sequence + 1)")),
)  # fmt: skip
UNUSED_ROWS = (
    mutant("rows of no sequence are left as they are", "padded",
           ("output", "range(share, gl.cdiv(rows, BLOCK), shares)", "range(0)")),
    mutant("one block of such rows is left", "padded",
           ("kernel", "seq_len - end, share", "seq_len - end - BLOCK, share")),
    mutant("every sequence clears all of them", "padded", ("kernel", "share, shares = sequence, sequences",
                                                         "share, shares = sequence * 0, sequences")),
    mutant("they begin after the first sequence", "padded",
           ("kernel", "end = gl.load(offset_ptr + sequences)", "end = gl.load(offset_ptr + 1)")),
)  # fmt: skip
EXCHANGES = (
    mutant("a segment does not wait for the sums of others", "lasting",
           ("exchange", "        _await(exchange.flags_ptr + place, gl.where(before, THREADS, 0))\n", "")),
    mutant("it waits for its own sum, too", "lasting",
           ("exchange", "before = other < exchange.segment", "before = other <= exchange.segment"),
           ("exchange", "range(exchange.earliest, exchange.segment, THREADS)",
                        "range(exchange.earliest, exchange.segment + 1, THREADS)")),
    mutant("a sum is announced before it is written", "lasting",
           ("exchange", "        left_at = exchange.sums_ptr",
                        "        _announce(exchange.flags_ptr + place + thread * 0)\n"
                        "        left_at = exchange.sums_ptr")),
    mutant("flags do not order memory", "lasting", ("exchange", "ld.acquire.gpu", "ld.relaxed.gpu")),
    mutant("a segment decays as a block", "lasting", ("state", "exchange.chunk * BLOCK)", "BLOCK)")),
    mutant("only the last sum counts", "lasting",
           ("kernel", "segment - 1 - warm // chunk, 0)", "segment - 1, 0)")),
    mutant("the blocks before a segment are summed up, not its own", "lasting",
           ("kernel", "gl.where(lasting, ahead, 0), gl.where(lasting, warm, 0)",
                      "0 * ahead, gl.where(lasting, warm, 0)")),
    mutant("the loader does not go back for k", "lasting",
           ("loader", "                k_ptr += -walk.later.to(gl.int64) * k_block\n", "")),
    mutant("the initial state counts twice", "lasting",
           ("state", "            inside = inside & (exchange.lasting == 0)\n", "            pass\n")),
    mutant("the initial state is left out", "lasting",
           ("exchange", "exchange.earliest - gl.where(has_initial, 1, 0)", "exchange.earliest")),
    mutant("places of a document begin one later", "documents",
           ("kernel", "<= place - sequences:", "< place - sequences:")),
    mutant("two segments of a document have one place", "documents",
           ("exchange", "self.second + segment - 1)", "self.second + gl.minimum(segment, 1) - 1)")),
    mutant("every second sum does not decay what is before it", "vectors",
           ("exchange", "total * decay + two", "total + two")),
    mutant("a sum of no segment is added", "vectors",
           ("exchange", "gl.where(other < next_one, ", "gl.where(True, ")),
    mutant("a sum comes back in another order", "vectors",
           ("exchange", "(1, 4, 2, 0, 3, 5)", "(1, 5, 2, 0, 3, 4)")),
    mutant("vectors are announced before they are written", "vectors",
           ("exchange", "        left_at = exchange.sums_ptr",
                        "        _announce(exchange.flags_ptr + place + thread * 0)\n"
                        "        left_at = exchange.sums_ptr")),
)  # fmt: skip
TURNS = (
    mutant("a tile in the order of tokens is weighed in that of visits", "turned",
           ("state", "[gl.num_warps()], [0])) ^ walk.flip", "[gl.num_warps()], [0]))")),
    mutant("its rows are stored in the order of tokens", "turned",
           ("wide", "gl.SliceLayout(1, stored)) ^ walk.flip", "gl.SliceLayout(1, stored))")),
    mutant("its rows read the state in the order of tokens", "turned",
           ("wide", "gl.SliceLayout(1, tall)) ^ walk.flip", "gl.SliceLayout(1, tall))")),
    mutant("tiles of a walk from the end begin a token late", "turned",
           ("loader", "walk.steps - row - BLOCK)", "walk.steps - row - BLOCK + 1)")),
    mutant("dk reads a whole tile of q", "turned",
           ("loader", "v, g, boxes.part_q, kv_head", "v, q, boxes.part_q, kv_head")),
    mutant("scores of such tiles leave out the diagonal", "turned",
           ("wide", "i -= walk.flip & 1", "i -= walk.flip & 2")),
    mutant("their weights grow with the distance", "turned",
           ("wide", "gl.where(walk.flip == 0, steep, -steep)", "steep")),
)  # fmt: skip
MUTANTS = (
    *TURNS, *EXCHANGES,
    *WAITS, *FENCES, *EARLY_RELEASES, *DECAYS, *SEGMENTS, *PARITIES, *COUNTS, *MASKS, *OWNERS,
    *ROLES,
    *UNUSED_ROWS,
)  # fmt: skip


@cache
def passes(trial: str, seed: int) -> bool:
    """Run the kernel as it is."""
    run(TRIALS[trial], seed)
    return True


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_mutant_is_found(mutant):
    for seed in SEEDS:
        assert passes(mutant.trial, seed)
        try:
            run(TRIALS[mutant.trial], seed, mutant.edits)
        except HazardError:
            return
    pytest.fail(f"not found: {mutant.name}")


def test_an_edit_that_no_longer_applies_fails():
    with pytest.raises(StaleEditError, match="has 0 times, not 1"):
        run(ONE_BLOCK, 1, [Edit("hopper/kernel.py", "what is not there", "")])
    with pytest.raises(StaleEditError, match="not 1"):
        run(ONE_BLOCK, 1, [Edit("hopper/kernel.py", "gl.where(", "gl.where(")])
