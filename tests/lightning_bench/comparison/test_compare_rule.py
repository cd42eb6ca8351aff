"""The rule of a verdict on simulated samples, thousands of comparisons each: how often it is wrong."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lightning_bench.comparison import rule
from lightning_bench.comparison.rule import Floats, Shift
from tests.support.paths import ROOT

CELLS, PAIRS, SAMPLES = 12, 16, 15
SWEEPS = 3000
PROCESS, SAMPLE = 0.004, 0.01
THRESHOLD = 0.03

Noise = Callable[[np.random.Generator, tuple[int, ...]], Floats]


def quiet(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """[sweep, cell, pass, side, sample]: a lot drawn by the process, and samples skewed to the right."""
    samples = rng.standard_gamma(4, shape) * (SAMPLE / 2)
    return samples + rng.normal(0, PROCESS, (*shape[:4], 1))


def drift(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Let the clock fall by 10 % over the comparison; passes begin with A and B in turns."""
    sides = np.arange(2 * PAIRS).reshape(PAIRS, 2)
    sides[1::2] = sides[1::2, ::-1]
    return quiet(rng, shape) + 0.1 * (sides / (2 * PAIRS))[None, None, :, :, None]


def outliers(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Every tenth sample takes up to several times as long, and one process in fifty is disturbed whole."""
    samples = quiet(rng, shape) + (rng.random(shape) < 0.1) * rng.exponential(0.5, shape)
    return samples + (rng.random((*shape[:4], 1)) < 0.02) * rng.exponential(0.2, (*shape[:4], 1))


def two_modes(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Run each process in one of two modes 1 % apart, and each sample in one of two 3 % apart."""
    modes = 0.01 * (rng.random((*shape[:4], 1)) < 0.3) + 0.03 * (rng.random(shape) < 0.3)
    return quiet(rng, shape) + modes


KINDS = [quiet, drift, outliers, two_modes]


def verdicts(
    noise: Noise, slowdown: float, sweeps: int = SWEEPS, pairs: int = PAIRS
) -> tuple[Floats, Floats]:
    """(SLOWER, SAME) of every cell [sweep, cell]; the slowdown is in the first cell alone."""
    rng = np.random.default_rng(20)
    slower, same = [], []
    for _ in range(sweeps // 250):
        logs = noise(rng, (250, CELLS, pairs, 2, SAMPLES))
        blocks = np.median(logs, axis=-1)
        differences = blocks[..., 1] - blocks[..., 0]
        differences[:, 0] += np.log1p(slowdown)
        clear, within, _ = rule.decide(rule.trimmed(differences), THRESHOLD)
        slower.append(clear.slower)
        same.append(within)
    return np.concatenate(slower), np.concatenate(same)


@pytest.mark.slow
@pytest.mark.parametrize("noise", KINDS)
def test_at_most_one_sweep_in_a_hundred_raises_a_false_slower(noise: Noise) -> None:
    slower, _ = verdicts(noise, 0.0)
    assert slower.any(axis=1).mean() <= 0.01


@pytest.mark.slow
@pytest.mark.parametrize("noise", KINDS)
def test_a_slowdown_of_the_threshold_is_found_in_nineteen_of_twenty(noise: Noise) -> None:
    slower, _ = verdicts(noise, THRESHOLD)
    assert slower[:, 0].mean() >= 0.95
    assert slower[:, 1:].any(axis=1).mean() <= 0.01


@pytest.mark.parametrize("noise", KINDS)
def test_what_did_not_change_is_mostly_said_to_be_the_same(noise: Noise) -> None:
    _, same = verdicts(noise, 0.0, sweeps=500)
    assert same.mean() >= 0.9


def test_false_alarms_are_rare_with_few_passes_and_noise_beyond_the_threshold() -> None:
    """The threshold lends no help here: the noise of a process is three times as large."""
    rng = np.random.default_rng(1)
    for pairs in (3, 6, 12):
        differences = rng.normal(0, 0.1, (4000, CELLS, pairs))
        clear, _, _ = rule.decide(rule.trimmed(differences), THRESHOLD)
        assert 0 < clear.slower.any(axis=1).mean() <= 0.01 or pairs == 3, pairs


@pytest.mark.parametrize("cells", [1, 2, 3, CELLS])
@pytest.mark.parametrize("today", [1.0, 1.5, 3.0])
def test_a_calibration_from_a_quieter_day_raises_no_false_alarms(today: float, cells: int) -> None:
    rng = np.random.default_rng(2)
    calibrated, df = 0.03, 23.0
    for pairs in (3, 4, 12):
        differences = rng.normal(0, today * calibrated * np.sqrt(2), (6000, cells, pairs))
        own = rule.trimmed(differences)
        prior = np.full(own.se.shape, 2 * calibrated**2 / pairs)
        clear, _, _ = rule.decide(rule.with_prior(own, prior, np.full(own.se.shape, df)), THRESHOLD)
        assert clear.slower.any(axis=1).mean() <= 0.01, pairs


def test_a_calibration_finds_much_more_with_four_passes() -> None:
    rng = np.random.default_rng(3)
    sd, pairs = 0.005, 4
    differences = np.log1p(0.03) + rng.normal(0, sd * np.sqrt(2), (2000, CELLS, pairs))
    own = rule.trimmed(differences)
    variance, df = np.full(own.se.shape, 2 * sd**2 / pairs), np.full(own.se.shape, 19.0)
    prior = rule.with_known(rule.with_prior(own, variance, df), variance, df)
    alone, _, _ = rule.decide(own, THRESHOLD)
    with_it, _, _ = rule.decide(prior, THRESHOLD)
    assert with_it.slower.mean() > 0.3
    assert not alone.slower.any(), "four passes cannot tell twelve cells from kernels with two modes"


def test_a_calibration_never_makes_a_cell_quieter_than_it_is_today() -> None:
    rng = np.random.default_rng(9)
    own = rule.trimmed(rng.normal(0, 0.01, (200, CELLS, 6)) * np.r_[20.0, np.ones(CELLS - 1)][:, None])
    calibrated = np.full(own.se.shape, 1e-10)
    both = rule.with_prior(own, calibrated, np.full(own.se.shape, 23.0))
    assert (both.se >= own.se * (1 - 1e-12)).all()
    kept = both.df[:, 0] == own.df[:, 0]
    assert kept.mean() > 0.9, "the noisy cell keeps its own degrees of freedom, too"


@pytest.mark.parametrize(("passes", "most"), [(4, 1), (5, 5), (6, 20), (7, 81), (8, 327)])
def test_so_many_passes_are_enough_for_so_many_cells(passes: int, most: int) -> None:
    assert rule.enough(most, passes, passes, paired=True)
    assert not rule.enough(most + 1, passes, passes, paired=True)
    shift = rule.trimmed(np.full((most + 1, passes), 0.1) + 1e-5 * np.arange(passes))
    assert rule.judge(shift, THRESHOLD).verdicts == ["AMBIGUOUS"] * (most + 1)
    few = rule.trimmed(np.full((most, passes), 0.1) + 1e-5 * np.arange(passes))
    assert rule.judge(few, THRESHOLD).verdicts == ["SLOWER"] * most


def test_luck_of_two_sides_is_the_likeliest_mixture_of_two_configurations() -> None:
    """Two of 2 slow and 12 of 12 fast: at most (1/7)² (6/7)¹²; in an overlap nearly anything may be."""
    head, base = np.array([[1.0, 1.01]]), np.linspace(0, 0.01, 12)[None]
    luck, gross = rule.luck_of_sides(head, base)
    assert luck[0] == pytest.approx((1 / 7) ** 2 * (6 / 7) ** 12, rel=0.01)
    assert gross[0]
    luck, gross = rule.luck_of_sides(np.array([[0.0, 1.0]]), np.array([[0.0, 1.0, 0.5]]))
    assert luck[0] > 0.1
    assert not gross[0]


def test_one_process_a_side_is_judged_by_the_noise_between_processes() -> None:
    """Samples alone would say that every difference between two processes is clear."""
    rng = np.random.default_rng(4)
    between, within = 0.01, 0.001
    log_ratio = rng.normal(0, between * np.sqrt(2), (4000, CELLS))
    true = Shift(
        log_ratio, np.full(log_ratio.shape, between * np.sqrt(2)), np.full(log_ratio.shape, rule.KNOWN)
    )
    blind = Shift(
        log_ratio, np.full(log_ratio.shape, within * np.sqrt(2)), np.full(log_ratio.shape, rule.KNOWN)
    )
    assert rule.decide(true, 0.01)[0].slower.any(axis=1).mean() <= 0.01
    assert rule.decide(blind, 0.01)[0].slower.any(axis=1).mean() > 0.9


@pytest.mark.parametrize("log_ratio", [0.016, 0.02, 0.029, 0.031, 0.2])
def test_a_change_that_is_called_is_never_below_half_of_the_threshold(log_ratio: float) -> None:
    for se in (1e-4, 1e-3, 3e-3, 1e-2):
        judged = rule.judge(Shift(np.array([log_ratio]), np.array([se]), np.array([11.0])), THRESHOLD)
        if judged.verdicts == ["SLOWER"]:
            assert log_ratio > np.log1p(THRESHOLD) / 2
    known = rule.judge(Shift(np.array([log_ratio]), np.array([1e-5]), np.array([11.0])), THRESHOLD)
    assert known.verdicts == ["SLOWER" if log_ratio > np.log1p(THRESHOLD) else "SAME"]


def test_the_four_verdicts_of_time() -> None:
    log_ratios, ses = np.array([0.05, -0.05, 0.001, 0.02]), np.array([0.005, 0.005, 0.005, 0.02])
    judged = rule.judge(Shift(log_ratios, ses, np.full(4, 11.0)), THRESHOLD)
    assert judged.verdicts == ["SLOWER", "FASTER", "SAME", "AMBIGUOUS"]


def test_more_cells_need_clearer_changes() -> None:
    def one_of(cells: int) -> str:
        shift = Shift(np.r_[0.04, np.zeros(cells - 1)], np.full(cells, 0.01), np.full(cells, 23.0))
        return rule.judge(shift, THRESHOLD).verdicts[0]

    assert (one_of(1), one_of(1000)) == ("SLOWER", "AMBIGUOUS")


def test_blocks_that_do_not_vary_at_all_are_clear_and_one_block_says_nothing() -> None:
    same = rule.judge(rule.trimmed(np.zeros((1, 12))), THRESHOLD)
    moved = rule.judge(rule.trimmed(np.full((1, 12), 0.05)), THRESHOLD)
    single = rule.judge(rule.trimmed(np.full((1, 1), 0.5)), THRESHOLD)
    assert (same.verdicts, moved.verdicts, single.verdicts) == (["SAME"], ["SLOWER"], ["AMBIGUOUS"])
    assert same.p[0] == 1.0
    assert moved.p[0] == pytest.approx(2 * 0.25**12)


def test_holm_against_the_worked_example_of_its_steps() -> None:
    adjusted = rule.holm(np.array([0.01, 0.04, 0.03, 0.005]))
    assert adjusted == pytest.approx([0.03, 0.06, 0.06, 0.02])


FILES = sorted((ROOT / "results").glob("*/verdict-power.csv"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_the_measured_comparisons_judged_again_keep_what_is_promised(path: Path) -> None:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    false = found = injected = same = 0
    for row in rows:
        logs = np.array(
            [[float(one) for one in cell.split()] for cell in row["pair_log_percent"].split("; ")]
        )
        verdicts = rule.judge(rule.trimmed(logs / 100), float(row["threshold_percent"]) / 100).verdicts
        slow = [int(index) for index in row["injected"].split()]
        same += row["kind"] == "same"
        false += row["kind"] == "same" and "SLOWER" in verdicts
        injected += len(slow)
        found += sum(verdicts[index] == "SLOWER" for index in slow)
    assert same >= 200
    assert false <= 0.01 * same
    assert found >= 0.95 * injected > 0


def test_resolution_is_what_is_found_in_nineteen_of_twenty() -> None:
    rng = np.random.default_rng(5)
    se, df = np.full(CELLS, 0.01), np.full(CELLS, rule.KNOWN)
    size = float(rule.judge(Shift(np.zeros(CELLS), se, df), THRESHOLD).resolution[0])
    estimates = rng.normal(0, 0.01, (4000, CELLS))
    estimates[:, 0] += size
    full = (4000, CELLS)
    clear, _, _ = rule.decide(
        Shift(estimates, np.broadcast_to(se, full), np.broadcast_to(df, full)), THRESHOLD
    )
    assert clear.slower[:, 0].mean() == pytest.approx(0.95, abs=0.015)


@pytest.mark.slow
@pytest.mark.parametrize(("cells", "sweeps"), [(1, 40_000), (100, 8000)])
def test_false_alarms_keep_to_what_the_docs_say_for_any_number_of_cells(cells: int, sweeps: int) -> None:
    """About 0.5 %, 0.7 % at most; a tenth more is the simulation's own."""
    rng = np.random.default_rng(6)
    for pairs in (8, 20):
        raised = 0
        for _ in range(0, sweeps, 500):
            clear, _, _ = rule.decide(rule.trimmed(rng.normal(0, 0.1, (500, cells, pairs))), THRESHOLD)
            raised += int(clear.slower.any(axis=1).sum())
        assert raised / sweeps <= 0.008, pairs
        assert raised / sweeps > 0.002 or pairs == 8, "eight passes of so many cells are rarely no luck"
