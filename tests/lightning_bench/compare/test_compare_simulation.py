"""A part of benchmarks/verdict_simulation.py with a fixed seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks import verdict_simulation as simulation
from benchmarks.verdict_simulation import Design, Draw
from lightning_bench.compare import rule

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
