"""The kernels compile for real GPUs, without one, and take the shared memory and registers computed."""

import csv
import json
import os
import subprocess
import sys

import pytest

from lightning_kernels.lightning2.cuts import SEGMENT_ALIGNED, WINDOW, WINDOW_BLOCKS, hopper_launch
from lightning_kernels.lightning2.tiles import LARGEST_SHARED_BYTES, REGISTERS, hopper_tiles
from tests.support.paths import ROOT

SHARED_LIMIT = {80: 166912, 89: 101376, 90: 232448, 120: 101376}
SPILL_LIMIT = {80: 544, 89: 704, 90: 320}
"""triton 3.7.1 spills 512, 664 and 256 bytes in lightning2: fp16 of 80 × 96, bf16 and fp32 of 128 × 128."""


def spill_limit(arch, row):
    """Return how many bytes a variant may spill.

    80 bytes in the loop of the loader made a backward pass of 128 × 128 four times as slow.
    """
    if row["kernel"] in ("serve", "bitwise"):  # most of it outside of the loops
        return 0 if "steps" in row["features"] else 768
    if row["kernel"] == "verify":
        return 0
    if "halved" in row["features"]:  # before and after the loops
        return 96
    is_main = (row["kernel"], row["head_dim"], row["value_dim"]) == ("hopper", "128", "128")
    return 48 if is_main else SPILL_LIMIT[arch]


COMPILE = """
import json, sys, traceback
from pathlib import Path
from scripts.compile_report import main
for number, words in enumerate(json.loads(sys.argv[1])):
    try:
        main(["--csv", f"{number}.csv", *words])
    except Exception:
        Path(f"{number}.error").write_text(traceback.format_exc())
"""


def tiles_of(row):
    """Return the tiles that a row of the Hopper kernel was compiled with."""
    features = row["features"].split()
    programs, elements = 16 if "few" in features else 128, 2**25 if "long" in features else 0
    dims = int(row["head_dim"]), int(row["value_dim"])
    return hopper_tiles(*dims, "reverse" in features, programs, 132, elements, "ahead" in features)


FEW = ["--with", "decay", "initial", "final", "few"]
AHEAD = [*FEW, "long", "ahead"]
AHEAD_STATELESS = ["--with", "decay", "few", "long", "ahead"]
AHEAD_BACKWARD = ["--with", "decay", "reverse", "ahead"]
WIDE_BACKWARD = ["--with", "decay", "reverse", "long"]
WIDE = ["--with", "decay", "initial", "final", "long"]
DRAFTS = ["--with", "decay", "accepted", "stochastic"]
SERVED = ["--with", "decay", "snapshots"]
STATES_BACKWARD = ["--with", "decay", "packed", "reverse"]
STATES = ["--with", "decay", "initial", "final", "packed"]
POOL_IN_BF16 = ["--with", "decay", "initial", "final", "packed", "pool", "halved"]
ALL = ["--with", "decay", "reverse", "initial", "final", "packed"]


CASES = [
    (90, ["--kernel", "lightning1", "step", "--dtype", "bf16", "--dims", "128x128"], 2),
    (90, ["--kernel", "lightning2", "--dtype", "bf16", "fp32", "--dims", "128x128", *ALL], 2),
    (90, ["--kernel", "hopper", "--dtype", "bf16", "--dims", "128x128"], 1),
    (90, ["--kernel", "hopper", "--dtype", "bf16", "--dims", "64x64", "80x192", *ALL], 2),
    (90, ["--kernel", "hopper", "--dtype", "bf16", "--dims", "64x64", "128x128", *FEW], 2),
    (90, ["--kernel", "hopper", "--dtype", "bf16", "--dims", "64x64", "128x128", *AHEAD], 2),
    (90, ["--kernel", "hopper", "--dtype", "bf16", "--dims", "128x128", *POOL_IN_BF16], 1),
    (90, ["--kernel", "hopper", "--dtype", "bf16", "--dims", "256x256", *AHEAD_STATELESS], 1),
    (90, ["--kernel", "hopper", "--dtype", "bf16", "--dims", "64x64", "128x128", *AHEAD_BACKWARD], 2),
    (90, ["--kernel", "hopper", "--dtype", "bf16", "--dims", "64x128", "--with", "decay", "ahead"], 1),
    (90, ["--kernel", "hopper", "--dtype", "bf16", "--dims", "128x128", "--with", "reverse", "ahead"], 1),
    (90, ["--kernel", "hopper", "--dtype", "fp16", "--dims", "192x80", *WIDE], 1),
    (90, ["--kernel", "hopper", "--dtype", "bf16", "--dims", "192x240", "--with", "long"], 1),
    (90, ["--kernel", "hopper", "--dtype", "bf16", "--dims", "256x256", *WIDE_BACKWARD], 1),
    (80, ["--dtype", "fp16", "--dims", "80x96", "--with", "reverse"], 3),
    (
        90,
        ["--kernel", "norm", "--dtype", "bf16", "--dims", "64x64", "2048x2048", "32768x32768"],
        3,
    ),
    (
        80,
        ["--kernel", "norm", "--dtype", "fp16", "--dims", "2048x2048", "5120x5120", "--with", "reverse"],
        2,
    ),
    (90, ["--kernel", "gateloop", "--dtype", "bf16", "--dims", "64x64", "--with", "reverse"], 1),
    (90, ["--kernel", "serve", "--dtype", "bf16", "--dims", "128x128", *SERVED], 1),
    (90, ["--kernel", "serve", "--dtype", "bf16", "--dims", "128x128", *SERVED, "stochastic", "steps"], 1),
    (90, ["--kernel", "bitwise", "--dtype", "bf16", "--dims", "128x128", *SERVED], 1),
    (80, ["--kernel", "verify", "--dtype", "bf16", "--dims", "128x128", *DRAFTS], 1),
    (120, ["--kernel", "serve", "--dtype", "fp16", "--dims", "128x128"], 1),
    (89, ["--kernel", "states", "--dtype", "bf16", "fp32", "--dims", "256x256"], 2),
    (
        89,
        ["--kernel", "states", "--dtype", "bf16", "fp32", "--dims", "256x256", *STATES_BACKWARD],
        2,
    ),
    (89, ["--kernel", "step", "--dtype", "bf16", "--dims", "128x128"], 1),
    (89, ["--kernel", "lightning2", "--dtype", "bf16", "--dims", "128x128", *ALL], 1),
    (89, ["--kernel", "lightning2", "--dtype", "fp16", "--dims", "256x64", *STATES], 1),
]
"""Architecture, arguments of the report, and the number of variants that they name."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Compile all cases in one process that has no interpreter: a table, or an error, for each."""
    pytest.importorskip("triton", minversion="3.6")
    folder = tmp_path_factory.mktemp("reports")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(folder / "cache"), "PYTHONPATH": str(ROOT)}
    words = json.dumps([["--arch", str(arch), *arguments] for arch, arguments, _ in CASES])
    command = [sys.executable, "-W", "ignore", "-c", COMPILE, words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda n: f"{CASES[n][0]} {' '.join(CASES[n][1])}")
def test_variants_compile_and_fit(folder, number):
    arch, _, variants = CASES[number]
    error = folder / f"{number}.error"
    assert not error.exists(), error.read_text()
    with (folder / f"{number}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == variants
    for row in rows:
        assert int(row["shared_bytes"]) <= SHARED_LIMIT[arch], row
        assert int(row["spill_bytes"]) <= spill_limit(arch, row), row
        assert int(row["waits"]) <= int(row["products"]) / 4, row
        if row["kernel"] == "hopper":
            tiles = tiles_of(row)
            assert int(row["shared_bytes"]) == tiles.shared_bytes(), row
            assert int(row["registers"]) == tiles.launch_registers, row
            roles = {tiles.state_registers, tiles.output_registers, tiles.loader_registers}
            assert roles <= set(map(int, row["setmaxnreg"].split("/"))), row


def all_tiles():
    """Yield the tiles of every launch of the Hopper kernel."""
    for dims in ((d, e) for d in range(16, 257, 16) for e in range(16, 257, 16)):
        for backward in (False, True):
            for programs, elements in ((16, 0), (16, 2**25), (128, 0), (128, 2**25)):
                for ahead in (False, True):
                    tiles = hopper_tiles(*dims, backward, programs, 132, elements, ahead)
                    if not (tiles.wide and ahead):  # which has no segments
                        yield tiles


def test_every_tile_fits_shared_memory_and_registers():
    shapes = set(all_tiles())
    sizes = sorted({(tiles.block_d, tiles.columns) for tiles in shapes})
    assert len(sizes) == 7, f"{sizes}: after *Add a tile* of docs/kernels.md, correct this number"
    for tiles in shapes:
        assert tiles.shared_bytes() <= LARGEST_SHARED_BYTES, tiles
        assert tiles.registers <= REGISTERS, tiles
        # The state in fp32, and registers for the rest.
        held = tiles.block_d * tiles.columns // (32 * tiles.state_warps)
        assert tiles.state_registers >= held + 32, tiles
        assert SEGMENT_ALIGNED % tiles.group == 0, tiles


def test_a_launch_in_segments_takes_tiles_that_walk_ahead():
    for seq_len in (4096, 131072):
        cut = hopper_launch(128, 128, False, 16, seq_len, 132, 16 * seq_len * 128)
        assert cut.tiles.ahead == (cut.segments > 1) == (cut.chunk > 0)
        assert cut.walks == 16 * cut.tiles.tiles_e
        assert cut.chunk % cut.tiles.group == 0
    assert cut.segments > 1


@pytest.mark.parametrize(
    ("dims", "programs", "seq_len", "wide"),
    [
        ((256, 256), 128, 8192, True),
        ((256, 256), 64, 4096, True),
        ((256, 256), 128, 512, True),
        ((80, 208), 128, 8192, True),
        ((256, 256), 128, 256, False),  # less was not measured
        ((256, 256), 60, 8192, False),
        ((192, 192), 128, 8192, False),  # three tiles of 64 columns instead of two
        ((128, 128), 128, 8192, False),
    ],
)
def test_wide_tiles_backward_where_they_were_measured(dims, programs, seq_len, wide):
    cut = hopper_launch(*dims, True, programs, seq_len, 132, programs * seq_len * dims[0])
    assert (cut.tiles.wide, cut.tiles.turned, cut.tiles.boxes) == (wide, wide, wide)
    assert not wide or (cut.segments, cut.walks) == (1, 6 * programs)


def test_packed_sequences_have_places_enough():
    for tokens, sequences in ((130048, 32), (133022, 16), (8192, 3), (4097, 3), (70000, 1)):
        cut = hopper_launch(128, 128, False, sequences * 8, -(-tokens // sequences), 132, 0, sequences)
        assert cut.tiles.ahead
        chunk = 64 * cut.chunk
        for first in range(tokens):  # one sequence from there to the end
            others = -(-(tokens - first) // chunk) - 1
            assert sequences + first // chunk + others <= cut.segments


def test_many_short_sequences_are_not_cut():
    for heads, sequences, tokens, backward in (
        (32, 1024, 64, True),
        (8, 4096, 64, True),
        (64, 10000, 16, False),
    ):
        cut = hopper_launch(128, 128, backward, sequences * heads, tokens, 132, 0, sequences)
        assert cut.chunk == cut.workspace_bytes == 0
        assert cut.walks == sequences * heads * cut.tiles.tiles_e * (3 if backward else 1)


def test_workspace_is_that_of_the_states():
    cut = hopper_launch(128, 128, False, 8, 8192, 132, 8 * 8192 * 128)
    assert cut.workspace_bytes == cut.walks * cut.segments * (4 * 64 * 128 + 4) > 0
    assert hopper_launch(128, 128, False, 128, 8192, 132, 2**27).workspace_bytes == 0


def test_segments_assume_the_window_of_the_least_slope():
    assert WINDOW_BLOCKS == 84
    assert 2.0**-8 * (WINDOW_BLOCKS - 1) * 64 < WINDOW <= 2.0**-8 * WINDOW_BLOCKS * 64
