"""The benchmark of pasts: each gives times of every provider, which are compared with those without one."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from types import ModuleType

import pytest

from tests.support.paths import ROOT

PROVIDERS = ["lightning2-torch", "sdpa-math"]


@pytest.fixture
def placement(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    sys.modules.pop("placement", None)
    return importlib.import_module("placement")


def test_every_past_gives_a_time_of_every_provider(
    placement: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "MOST_BALLAST", 2)
    monkeypatch.setattr(placement, "RULE", replace(placement.RULE, max_samples=30, sample_limit_s=0.1))
    for past in placement.PASTS:
        found = placement.measure(past, PROVIDERS, seq_len=32, large=64, device="cpu", seed=0)
        assert list(found) == PROVIDERS
        assert all(float(each["median_ms"]) > 0 for each in found.values())


def test_ballast_is_what_the_seed_says_and_is_kept(
    placement: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "MOST_BALLAST", 3)
    kept = [
        [len(x) for x in placement.live_through("ballast", PROVIDERS, 64, "cpu", seed)] for seed in (0, 0, 1)
    ]
    assert kept[0] == kept[1] != kept[2]
    assert all(size % 2**20 == 0 for size in kept[0])


def test_pasts_are_compared_with_processes_without_one(placement: ModuleType) -> None:
    times = {"large": (1.03, 1.03), "none": (0.99, 1.01)}
    rows = [
        {"past": past, "provider": "p", "median_ms": str(ms)} for past, found in times.items() for ms in found
    ]
    assert placement.summary(rows) == [
        "p large: +3.00 %, processes differ by 0.00 %",
        "p none: +0.00 %, processes differ by 1.41 %",
    ]
