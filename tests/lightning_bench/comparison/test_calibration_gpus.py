"""Calibrations are of one GPU each: GPUs of one kind differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_bench.comparison.calibration import noise_floors
from lightning_bench.comparison.noise import Noises, read_calibration, write_calibration
from lightning_bench.comparison.sides import Run, Side
from lightning_bench.errors import LbenchError
from tests.support.report_rows import PAPER

NOISE = {"quiet": 0.002, "loud": 0.03}
FWD = "lightning2/fwd/b4-h32-n512-d128-e128-bf16-cuda"


def side(seed: int, pairs: int = 24) -> Side:
    """Return rows of two GPUs of different noise, in the order in which both measure at once."""
    draw = np.random.default_rng(seed)
    record = replace(PAPER, case_id=FWD, machine_id="m", device_name="NVIDIA H200")
    runs = [
        Run(replace(record, gpu_uuid=gpu), Path("a.csv"), draw.normal(0, noise), pair=f"{gpu}-{number}")
        for number in range(pairs)
        for gpu, noise in NOISE.items()
    ]
    return Side("a", runs, [])


def test_each_gpu_has_its_noise(tmp_path: Path) -> None:
    rows = noise_floors(side(1), side(2), threshold=0.03, pairs=16)
    assert [(row.gpu_uuid, row.pairs) for row in rows] == [("quiet", 24), ("loud", 24)]
    write_calibration(tmp_path / "x-calibration.csv", rows)
    noises = Noises(read_calibration(tmp_path / "x-calibration.csv"))
    for gpu, noise in NOISE.items():
        found = noises.of("m", FWD, gpu)
        assert found is not None
        assert found.source == "calibrated"
        assert found.run == pytest.approx(noise, rel=0.5)
    loud, other, unknown, uncalibrated = (
        noises.of("m", *case) for case in ((FWD, "loud"), (FWD, "third"), (FWD, ""), ("b", "quiet"))
    )
    assert loud is not None
    assert other == replace(loud, source="calibrated on another GPU")
    assert unknown == loud
    assert uncalibrated == replace(loud, source="calibrated on other cases")
    assert noises.of("n", FWD, "quiet") is None


def test_a_calibration_that_names_no_gpu_is_of_each(tmp_path: Path) -> None:
    rows = noise_floors(side(1), side(2), threshold=0.03, pairs=16)[:1]
    path = tmp_path / "old-calibration.csv"
    write_calibration(path, rows)
    lines = path.read_text().splitlines()
    assert lines[0].endswith(",gpu_uuid")
    path.write_text("\n".join(line.rpartition(",")[0] for line in lines) + "\n")
    noises = Noises(read_calibration(path))
    assert noises.of("m", FWD, "third") == noises.of("m", FWD)
    assert noises.of("m", FWD, "third") is not None


def test_nothing_to_calibrate_is_said() -> None:
    with pytest.raises(LbenchError, match="nothing is calibrated"):
        noise_floors(Side("a", [], []), Side("b", [], []), threshold=0.03, pairs=16)


def test_noise_that_is_calibrated_is_not_called_assumed(
    tmp_path: Path, lbench: Callable[..., Any], sides: Any
) -> None:
    """Of a kernel that tunes itself, too."""
    files = [tmp_path / "base.csv", tmp_path / "head.csv"]
    for number, path in enumerate(files):
        sides.write(path, {"fla-chunk/fwd/b1": 1.0}, seed=number, machine_id="m")
    assert "assumed (1 % on cuda, 30 % of a kernel that tunes itself" in lbench("compare", *files).err
    calibration = tmp_path / "x-calibration.csv"
    write_calibration(calibration, noise_floors(side(1), side(2), threshold=0.03, pairs=16))
    said = lbench("compare", *files, "--calibration", calibration).err
    assert "fla-chunk: an autotuner may choose anew in each process" in said
    assert "assumed" not in said
