"""The Hopper kernel's own source on the emulated device, against fp64: what the kernel must get right.

Seeds are fixed, but for a few random trials that change every day, whose seeds a failure names. See
docs/kernels.md for more of these.
"""

import math
from dataclasses import replace
from datetime import date

import pytest
import torch

from lightning_kernels.lightning2.tiles import hopper_tiles
from tests.support.gluon_emulator.fuzz import draw
from tests.support.gluon_emulator.trials import Outcome, Trial, run

TODAY = date.today().toordinal()
ONE = Trial(heads=1, kv_heads=1, slopes=(0.05,))
FULL = replace(ONE, initial=True, final=True)

LENGTHS = [Trial(n=n, initial=True, final=True) for n in (0, 1, 63, 64, 65, 128, 200)]
DIMS = [
    Trial(n=150, head_dim=d, value_dim=e, processors=processors, initial=True, final=True)
    for processors in (1, 132)
    for d, e in ((16, 32), (64, 64), (64, 128), (80, 48), (96, 96), (128, 64), (128, 128))
] + [
    Trial(n=100, head_dim=d, value_dim=e, initial=True, final=True, wide=wide, processors=1)
    for d, e, wide in ((256, 256, False), (256, 256, True), (192, 208, True), (256, 64, False))
]  # fmt: skip
LAYOUTS = [
    Trial(n=100, batch=2, layouts=layouts, boxes=boxes)
    for layouts in (("bnhd",) * 4, ("sliced",) * 4, ("strided", "bhnd", "bnhd", "sliced"))
    for boxes in (False, True)
]  # fmt: skip
PACKED = [
    Trial(n=n, bounds=bounds, initial=initial, final=True, processors=processors)
    for n, bounds in ((200, (0, 64, 64, 65, 200)), (130, (0, 0, 130)), (0, (0, 0)), (300, (0, 70, 70)))
    for initial in (False, True)
    for processors in (1, 132)
]  # fmt: skip
STATES = [
    Trial(initial=initial, final=final, grad_o=grad_o)
    for initial, final, grad_o in ((True, False, True), (False, True, True), (True, True, False))
]  # fmt: skip
SLOPES = [
    Trial(slopes=slopes, processors=processors, initial=True, final=True, dtype=dtype)
    for slopes in (None, (0.0, 1e-8), (2.0**-8, 0.5), (8.0, 50.0), (1e4, 1e30), (math.inf, 0.3))
    for processors, dtype in ((1, torch.bfloat16), (132, torch.float16))
]  # fmt: skip
STEEP = [
    Trial(n=70, head_dim=256, value_dim=96, wide=True, processors=1, slopes=slopes, backward=False)
    for slopes in (None, (50.0, 1e30), (math.inf, 0.3))
]  # fmt: skip
SEGMENTS = [
    replace(FULL, n=1024),
    replace(FULL, n=1000, slopes=(1.0,), head_dim=128, value_dim=128),
    replace(FULL, n=960, slopes=(0.0,), boxes=True),
    replace(FULL, n=1024, slopes=(0.1,), head_dim=256, value_dim=64, backward=False),
    replace(FULL, n=1700, slopes=(0.1,), bounds=(0, 600, 1700)),
    replace(FULL, n=1700, slopes=(0.1,), bounds=(0, 300, 800)),
    replace(FULL, n=1024, slopes=(math.inf,)),
    replace(FULL, n=1024, slopes=None, initial=False, final=False),
]  # fmt: skip
OUTLIERS = [
    replace(ONE, n=2048, slopes=(0.02,), outlier=255, backward=False),
    replace(ONE, n=1024, slopes=(0.05,), outlier=1023),
    replace(ONE, n=540, slopes=(0.005,), outlier=0, processors=1),
]  # fmt: skip
TRIALS = [
    *LENGTHS, *DIMS, *LAYOUTS, *PACKED, *STATES, *SLOPES, *STEEP, *OUTLIERS,
    Trial(n=65, heads=6, kv_heads=2, slopes=(0.5, 0.1) * 3, final=True, initial=True, scale=-0.5),
    Trial(batch=0), Trial(heads=1, kv_heads=1, slopes=(0.1,), batch=3, layouts=("bnhd",) * 4),
]  # fmt: skip


LASTING = [
    replace(FULL, n=1000, slopes=(1e-4,), head_dim=128, value_dim=128),
    replace(FULL, n=1024, slopes=(1e-3,), head_dim=256, value_dim=64),
    replace(FULL, n=1024, slopes=(0.0,), head_dim=96, value_dim=96, boxes=True, final=False),
    replace(FULL, n=1700, slopes=(0.001,), bounds=(0, 600, 1700)),
    replace(FULL, n=2200, slopes=None, bounds=(0, 64, 64, 2000, 2100), processors=16),
    Trial(n=1500, heads=2, kv_heads=1, slopes=(0.3, 0.001), processors=24),
    replace(ONE, n=4097, slopes=(0.0,), bounds=(0, 256, 512, 4097)),
]  # fmt: skip


WIDE_BACKWARD = [
    Trial(n=n, head_dim=d, value_dim=e, slopes=slopes, wide=True)
    for d, e, n, slopes in (
        (256, 256, 200, (0.3, 0.0)), (256, 256, 64, None), (256, 256, 1, (0.3, 0.0)),
        (192, 208, 129, (0.1, 2.0)), (256, 96, 65, (50.0, 1e30)), (80, 240, 130, (0.3, math.inf)),
    )
] + [
    Trial(
        n=130, head_dim=256, value_dim=256, heads=4, batch=2, wide=True, slopes=(0.3, 0.2, 0.1, 0.0),
        layouts=("bhnd", "sliced", "bnhd", "strided"), dtype=torch.float16,
    ),
]  # fmt: skip


@pytest.mark.parametrize("trial", WIDE_BACKWARD, ids=lambda trial: f"n{trial.n}-d{trial.head_dim}")
def test_wide_tiles_backward(trial):
    backward = run(trial, 0).launches[1]["TILES"]
    assert (backward.wide, backward.turned, backward.columns) == (True, True, 128)


@pytest.mark.parametrize("states", [{"initial": True}, {"final": True}], ids=str)
def test_no_wide_tiles_backward_with_states(states):
    """They would spill."""
    launches = run(replace(WIDE_BACKWARD[0], processors=1, **states), 0).launches
    assert [launch["TILES"].wide for launch in launches] == [True, False]


@pytest.mark.parametrize("trial", LASTING, ids=lambda trial: f"n{trial.n}")
def test_segments_exchange_states_without_an_initial_state(trial):
    assert run(replace(trial, initial=False), 0).announcements


@pytest.mark.parametrize("trial", LASTING, ids=lambda trial: f"n{trial.n}")
def test_segments_exchange_states(trial):
    assert run(trial, 0).announcements
    assert not run(replace(trial, exchange=False), 0).announcements


def test_a_document_that_is_a_bit_too_long_is_cut_only_where_it_decays():
    trial = Trial(n=7680, bounds=(0, 3200, 6400, 7680), slopes=(0.0, 0.0), processors=6, backward=False)
    outcome = run(trial, 0)
    assert int(outcome.launches[0]["whole"]) < 50 <= int(outcome.launches[0]["most"])
    assert outcome.announcements == 0


@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: f"n{trial.n}")
def test_trial(trial):
    run(trial, 0)


@pytest.mark.parametrize("trial", SEGMENTS, ids=lambda trial: f"n{trial.n}")
def test_trial_in_segments(trial):
    assert all(int(launch["segments"]) > 1 for launch in run(trial, 0).launches)


@pytest.mark.parametrize("seed", range(12))
def test_random_trial(seed):
    run(draw(seed, 300), seed)


@pytest.mark.parametrize("number", range(6))
def test_random_trial_of_the_day(number):
    seed = 1000 * TODAY + number
    try:
        run(draw(seed, 300), seed)
    except Exception as error:
        error.add_note(f"the trial: draw({seed}, 300)")
        raise


def tiles_of(outcome: Outcome) -> set[tuple[object, ...]]:
    """Return what distinguishes the tiles of the launches."""
    return {distinct(launch["TILES"]) for launch in outcome.launches}


def distinct(tiles) -> tuple[object, ...]:
    return tiles.block_d, tiles.columns, tiles.boxes, tiles.wide


EVERY_TILE = {
    (d, e, wide, boxes, processors): distinct(
        hopper_tiles(d, e, False, 1, processors, 2**25 if boxes else 2**23 if wide else 0)
    )
    for d, e, wide, boxes, processors in (
        (64, 64, False, False, 132), (64, 64, False, True, 132), (64, 64, False, False, 1),
        (64, 128, False, False, 132), (64, 128, False, True, 132), (64, 128, False, False, 1),
        (128, 128, False, False, 132), (128, 128, False, True, 132), (128, 128, False, False, 1),
        (256, 64, False, False, 1), (256, 64, False, False, 132), (256, 64, False, True, 132),
        (256, 256, True, True, 1),
    )
}  # fmt: skip


def test_every_tile_is_among_those_that_are_tried():
    possible = {
        distinct(hopper_tiles(d, e, backward, programs, 132, elements))
        for d in (16, 64, 96, 128, 192, 256)
        for e in (16, 32, 64, 96, 128, 192, 256)
        for backward in (False, True)
        for programs in (1, 8, 34, 128)
        for elements in (0, 2**23, 2**25)
    }
    untried = possible - set(EVERY_TILE.values())
    assert not untried, f"add launches that take {sorted(untried)} (block_d, columns, …) to EVERY_TILE"
    assert possible == set(EVERY_TILE.values())


@pytest.mark.parametrize("shape", EVERY_TILE, ids=str)
def test_no_number_of_blocks_hangs(shape):
    """Rings wrap and end at every place of a pair and of a stage."""
    d, e, wide, boxes, processors = shape
    for blocks in (0, 1, 2, 3, 4, 5, 8, 9):
        trial = replace(ONE, n=64 * blocks, head_dim=d, value_dim=e, wide=wide, boxes=boxes, backward=False)
        outcome = run(replace(trial, processors=processors), blocks)
        assert tiles_of(outcome) == {EVERY_TILE[shape]} or not blocks
        # The compiler adds 2 KiB to exchange rows of o, barriers, and what partitions start with.
        assert 2048 < outcome.launches[0]["TILES"].shared_bytes() - outcome.shared_bytes < 2300


@pytest.mark.parametrize("shape", [shape for shape in EVERY_TILE if not shape[2]], ids=str)
def test_no_number_of_segments_hangs(shape):
    d, e, _, boxes, processors = shape
    trial = replace(ONE, slopes=(0.3,), head_dim=d, value_dim=e, boxes=boxes, backward=False)
    for blocks, segments in ((4, 3), (9, 2), (17, 4)):
        run(replace(trial, n=64 * blocks - 1, processors=processors, segments=segments), blocks)
