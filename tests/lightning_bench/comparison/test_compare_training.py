"""Steps of training are compared as calls are, and never counted together with them."""

from __future__ import annotations

from pathlib import Path

from lightning_bench.comparison.judge import compare_sides
from lightning_bench.comparison.sides import read_side
from tests.support.compare_sides import write

IDS = [f"lightning2/fwd_bwd/b{64 // n}-n{n}k" for n in (1, 2, 4, 8)]
TRAINED = {"metric": "train", "model": "tnl-0.4b", "step_tokens": 65536}


def test_a_slower_step_is_found(tmp_path: Path) -> None:
    base = write(tmp_path / "base.csv", dict.fromkeys(IDS, 370.0), passes=8, **TRAINED)
    head = write(tmp_path / "head.csv", dict.fromkeys(IDS, 400.0), passes=8, seed=1, **TRAINED)
    result = compare_sides(read_side(base), read_side(head), threshold=0.03)
    assert [cell.verdict for cell in result.cells] == ["SLOWER"] * 4
    assert {cell.metric for cell in result.cells} == {"train"}
    (overall,) = result.overall
    assert (overall.verdict, overall.cells) == ("SLOWER", 4)


def test_steps_and_calls_of_one_provider_have_verdicts_of_their_own(tmp_path: Path) -> None:
    sides = []
    for name, step, seed in (("base", 370.0, 0), ("head", 400.0, 9)):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "train.csv", dict.fromkeys(IDS, step), passes=8, seed=seed, **TRAINED)
        write(tmp_path / name / "speed.csv", dict.fromkeys(IDS, 1.0), passes=8, seed=seed + 1)
        sides.append(tmp_path / name)
    verdicts = {one.verdict for one in compare_sides(*map(read_side, sides), threshold=0.03).overall}
    assert verdicts == {"SLOWER", "SAME"}


def test_generation_is_compared_and_energy_is_not(tmp_path: Path) -> None:
    generated = {"metric": "generate", "model": "tnl-7b", "new_tokens": 1024}
    sides = []
    for name, time, seed in (("base", 5000.0, 0), ("head", 5500.0, 9)):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "generate.csv", dict.fromkeys(IDS, time), passes=8, seed=seed, **generated)
        write(tmp_path / name / "energy.csv", dict.fromkeys(IDS, time), passes=1, seed=seed, metric="energy")
        sides.append(tmp_path / name)
    cells = compare_sides(*map(read_side, sides), threshold=0.03).cells
    found = {(cell.metric, cell.verdict) for cell in cells}
    assert found == {("generate", "SLOWER"), ("energy", "INCOMPARABLE")}
    assert {cell.detail for cell in cells if cell.metric == "energy"} == {
        "energy is not compared: read both tables"
    }
