"""A part of benchmarks/verdict_simulation.py with a fixed seed, and the CSVs of both simulations."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import assumed_noise
from benchmarks import verdict_simulation as simulation
from benchmarks.verdict_simulation import Design, Draw
from lightning_bench.comparison import judge, rule
from tests.support.paths import ROOT

PATH = ROOT / "results" / "cpu" / "verdict-simulation.csv"
FEW, SOME, MANY = Design(4, 4, True), Design(10, 10, True), Design(16, 16, True)
TWO_OF_TWELVE = Design(2, 12, False)


def rate(draw: Draw, design: Design, cells: int, sweeps: int = 800) -> float:
    by_cell, by_provider = simulation.alarms(draw, design, cells, sweeps, np.random.default_rng(8))
    return float((by_cell | by_provider).mean())


@pytest.mark.parametrize("draw", simulation.NOISES, ids=lambda draw: draw.__name__)
def test_false_alarms_are_rare_in_every_noise(draw: Draw) -> None:
    """In 800 sweeps, 13 are what 1 % is with chance."""
    for design in (FEW, SOME, MANY, TWO_OF_TWELVE):
        assert rate(draw, design, 12) <= 13 / 800, design
    assert rate(draw, FEW, 200, 300) <= 7 / 300


def test_without_the_bound_on_luck_two_configurations_raise_many_alarms(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert rate(simulation.two_points, FEW, 200, 300) < 0.01
    trimmed = rule.trimmed

    def lucky(blocks: rule.Floats) -> rule.Shift:
        shift = trimmed(blocks)
        return replace(shift, luck=np.zeros_like(shift.luck))

    monkeypatch.setattr(rule, "trimmed", lucky)
    assert rate(simulation.two_points, FEW, 200, 300) > 0.05


def busy(rng: np.random.Generator, shape: tuple[int, ...]) -> rule.Floats:
    """Let times of equal code differ by factors, as on a machine whose processors others use."""
    return 15 * simulation.heavy_tails(rng, shape)


def test_on_a_busy_machine_only_undisturbed_processes_call_what_doubles(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    designs = [Design(passes, passes, True) for passes in (2, 3, 4, 8)]
    assert rate(busy, designs[0], 12, 200) > 0.3
    trimmed = rule.trimmed
    monkeypatch.setattr(rule, "trimmed", lambda blocks: rule.without_gross(trimmed(blocks), np.array(True)))
    for design in designs:
        assert rate(busy, design, 12) <= 13 / 800, design


def test_with_welch_alone_two_runs_against_twelve_raise_many_alarms(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rate(simulation.normal, TWO_OF_TWELVE, 12) < 0.01
    difference = rule.difference
    monkeypatch.setattr(rule, "difference", lambda head, base: difference(head, base, known=True))
    monkeypatch.setattr(rule, "luck_of_sides", lambda head, base: (np.zeros(()), np.zeros((), dtype=bool)))
    assert rate(simulation.normal, TWO_OF_TWELVE, 12) > 0.03


@pytest.mark.parametrize("draw", simulation.NOISES, ids=lambda draw: draw.__name__)
def test_with_sixteen_passes_the_bound_on_luck_hides_little(
    draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the rule finds without it is the power that it had before there was one."""
    having = simulation.found(draw, MANY, 400, np.random.default_rng(9))
    trimmed = rule.trimmed
    monkeypatch.setattr(
        rule, "trimmed", lambda blocks: replace(trimmed(blocks), luck=np.zeros(blocks.shape[:-1]))
    )
    before = simulation.found(draw, MANY, 400, np.random.default_rng(9))
    assert having >= before - 0.02
    if draw is simulation.normal:
        assert having >= 0.95


def test_the_committed_simulation_has_all_models_and_no_row_above_one_per_cent() -> None:
    with PATH.open(newline="") as file:
        rows = list(csv.DictReader(file))
    equal = [row for row in rows if row["kind"] == "equal"]
    assert {row["noise"] for row in equal} == {draw.__name__ for draw in simulation.NOISES}
    assert {(row["design"], int(row["base"]), int(row["head"])) for row in equal} == {
        (design.name, design.base, design.head) for design in simulation.DESIGNS
    }
    assert {int(row["cells"]) for row in equal} == {*simulation.CELLS, simulation.MANY}
    assert max(float(row["false_by_any"]) for row in equal) <= 0.01
    found = {(row["noise"], row["base"]): float(row["found"]) for row in rows if row["kind"] == "power"}
    assert found["normal", "16"] >= 0.95


@pytest.mark.parametrize("draw", [simulation.normal, simulation.skewed, simulation.two_points])
def test_one_process_a_side_is_as_good_as_the_assumed_noise(draw: Draw) -> None:
    rng = np.random.default_rng(3)
    by_cells, by_overall = assumed_noise.rates(draw, 1.0, 14, 150, rng)
    assert by_cells <= 4 / 150
    assert by_overall <= 2 / 150


def test_three_times_the_assumed_noise_is_seen_in_the_spread_over_the_cells(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert sum(assumed_noise.rates(simulation.normal, 3.0, 84, 60, np.random.default_rng(4))) <= 2 / 60
    monkeypatch.setattr(judge, "todays_scale", lambda log_ratios, ses, lines: np.ones(len(log_ratios)))
    assert assumed_noise.rates(simulation.normal, 3.0, 84, 60, np.random.default_rng(4))[0] > 0.2


def test_the_committed_rates_of_one_process_a_side_are_those_that_the_docs_state() -> None:
    with (ROOT / "results" / "cpu" / "assumed-noise.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["noise"] for row in rows} == {draw.__name__ for draw in simulation.NOISES}
    like = {"normal", "skewed", "two_modes", "sticky", "shared"}
    for row in rows:
        rate = max(float(row["false_by_cells"]), float(row["false_by_overall"]))
        wider = row["times"] != "3.0" or row["noise"] in {"normal", "two_modes", "sticky"}
        if row["noise"] in like and wider:
            assert rate <= 0.012, row
