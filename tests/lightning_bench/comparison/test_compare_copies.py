"""What looks like several measurements and is not: copied files, rows of base in head, equal times."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning_bench.comparison.result import SAME_ROW
from lightning_bench.record import ResultFile, read_records

FWD = "lightning2/fwd/b1"


def compared(lbench: Callable[..., Any], paths: tuple[Path, Path]) -> tuple[int, dict[str, Any], list[str]]:
    """Return the exit code, the only cell and the remarks."""
    ran = lbench("compare", *paths, "--json")
    found = json.loads(ran.out)
    (cell,) = found["cells"]
    return ran.code, cell, found["remarks"]


def test_copies_of_a_file_are_no_further_runs(sides: Any, lbench: Callable[..., Any], tmp_path: Path) -> None:
    """Two runs a side cannot decide, and so neither can four copies of each."""
    folders = (tmp_path / "a", tmp_path / "b")
    for folder, times in zip(folders, ((1.0, 1.01), (1.04, 1.06)), strict=True):
        for number, ms in enumerate(times):
            sides.write(folder / f"{number}.csv", {FWD: ms}, seed=number)
    code, once, _ = compared(lbench, folders)
    assert (code, once["verdict"]) == (3, "AMBIGUOUS")
    for folder in folders:
        for path in sorted(folder.iterdir()):
            for copy in "xyz":
                shutil.copy(path, folder / f"{copy}{path.name}")
    code, cell, remarks = compared(lbench, folders)
    assert (code, cell) == (3, once)
    assert "1 cell with one row in several files of a side: copies count once" in remarks


def test_a_row_of_base_is_no_figure_of_head(sides: Any, lbench: Callable[..., Any], tmp_path: Path) -> None:
    """Neither as head's last row, whatever was measured before, nor as one run of a folder."""
    files = (tmp_path / "base.csv", tmp_path / "head.csv")
    sides.write(files[1], {FWD: 1.0})
    with ResultFile(files[0]) as file:
        file.append(sides.row(FWD, median_ms=2.0))
        for record in read_records(files[1]):
            file.append(record)
    code, cell, _ = compared(lbench, files)
    assert (code, cell["verdict"], cell["detail"]) == (3, "INCOMPARABLE", SAME_ROW)
    folders = (tmp_path / "a", tmp_path / "b")
    for side, folder in enumerate(folders):
        for number in range(8):
            sides.write(folder / f"{number}.csv", {FWD: 1.0}, seed=10 * number + side)
        shutil.copy(files[1], folder / "also.csv")
    code, cell, _ = compared(lbench, folders)
    assert (code, cell["verdict"], cell["detail"]) == (3, "INCOMPARABLE", SAME_ROW)


def test_a_row_of_memory_or_correctness_on_both_sides_says_nothing(
    sides: Any, lbench: Callable[..., Any], tmp_path: Path
) -> None:
    files = (tmp_path / "base.csv", tmp_path / "head.csv")
    for metric in ("memory", "check"):
        shared = sides.row(FWD, metric=metric, extra_mib=2.0)
        for path, rows in zip(files, ([sides.row(FWD, metric=metric), shared], [shared]), strict=True):
            path.unlink(missing_ok=True)
            with ResultFile(path) as file:
                for row in rows:
                    file.append(row)
        code, cell, _ = compared(lbench, files)
        assert (code, cell["verdict"], cell["detail"]) == (3, "INCOMPARABLE", SAME_ROW)


def test_a_new_provider_that_is_wrong_is_named(
    sides: Any, lbench: Callable[..., Any], tmp_path: Path
) -> None:
    files = (tmp_path / "base.csv", tmp_path / "head.csv")
    for seed, path in enumerate(files):
        sides.write(path, {FWD: 1.0}, passes=16, seed=seed)
    with ResultFile(files[1]) as file:
        file.append(sides.row("mine/fwd/b1", status="wrong", reason="off"))
    ran = lbench("compare", *files)
    assert "note: 1 cell only in head that failed there, which the exit code does not count: mine" in ran.err
    headline = "### ⚠️ lbench: Nothing is worse in 1 cell; only in head: 1, of which 1 failed"
    assert headline in lbench("compare", *files, "--markdown").out


def test_runs_that_agree_exactly_have_an_interval_without_an_end(
    sides: Any, lbench: Callable[..., Any], tmp_path: Path
) -> None:
    """Times of short kernels are multiples of a tick, so no run may differ."""
    folders = (tmp_path / "a", tmp_path / "b")
    for folder, ms in zip(folders, (0.5, 0.625), strict=True):
        for number in range(2):
            with ResultFile(folder / f"{number}.csv") as file:
                file.append(sides.row(FWD, median_ms=ms, time_utc=f"2026-01-0{number + 1}T00:00:00+00:00"))
    code, cell, _ = compared(lbench, folders)
    assert (code, cell["verdict"], cell["ratio"]) == (3, "AMBIGUOUS", 1.25)
    assert (cell["low"], cell["high"]) == (None, None)
