"""Files committed on several days, of providers that did not change: no false SLOWER, +5 % is found.

And a second opinion on the measured comparisons of results/*/verdict-power.csv: sign flips.
"""

from __future__ import annotations

import csv
import subprocess
from pathlib import Path

import numpy as np
import pytest

from lightning_bench.comparison import rule
from lightning_bench.comparison.judge import compare_sides
from lightning_bench.comparison.noise import ASSUMED
from lightning_bench.comparison.rule import Floats
from lightning_bench.providers.built_in import tunes_itself
from tests.support import committed_runs
from tests.support.committed_runs import PAIRS, committed
from tests.support.paths import ROOT

THRESHOLD = 0.03
Pair = tuple[str, str, str]


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: "-".join(pair))
def test_what_did_not_change_is_not_slower_whichever_file_is_the_base(tmp_path: Path, pair: Pair) -> None:
    name, *commits = pair
    for base, head in (commits, commits[::-1]):
        found = compare_sides(
            *committed_runs.sides(committed(), name, (base, head), tmp_path), threshold=THRESHOLD
        )
        assert found.compared >= 20
        assert not found.failing, found.headline
        assert not found.failing_overall, found.headline


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: "-".join(pair))
def test_five_per_cent_more_everywhere_is_found_and_said(tmp_path: Path, pair: Pair) -> None:
    name, *commits = pair
    for base, head in (commits, commits[::-1], commits[1:] * 2):
        read = committed_runs.sides(committed(), name, (base, head), tmp_path, factor=1.05)
        found = compare_sides(*read, threshold=THRESHOLD)
        assert found.exit_code == 1
        assert found.headline.startswith("Worse")
        assert "over all" in found.headline
        assert "not decided: " in found.headline
        slower = {one.provider for one in found.overall if one.verdict == "SLOWER"}
        assert "lightning-official" in slower
        assert not any(map(tunes_itself, slower)), "one process of a kernel that tunes itself says nothing"


def test_the_assumed_noise_is_no_less_than_that_between_these_days(tmp_path: Path) -> None:
    """In deviations of the assumption: every cell's own, and what a provider's cells have in common."""
    cells, means = [], []
    for name, *commits in PAIRS:
        read = committed_runs.sides(committed(), name, (commits[0], commits[1]), tmp_path)
        found = compare_sides(*read, threshold=THRESHOLD)
        of_line: dict[tuple[str, str], list[float]] = {}
        for cell in found.cells:
            if cell.ratio is None or tunes_itself(cell.provider):
                continue
            assert cell.base is not None
            change = float(np.log(cell.ratio))
            each = ASSUMED["cuda"].of(float(np.log(cell.base)), self_tuning=False)
            cells.append(change / (each * np.sqrt(2)))
            of_line.setdefault((cell.provider, cell.direction), []).append(change)
        each, shared = ASSUMED["cuda"].process, ASSUMED["cuda"].shared
        means += [np.mean(line) / np.sqrt(2 * (each**2 / len(line) + shared**2)) for line in of_line.values()]
    assert len(cells) > 600
    assert len(means) > 100
    assert 0.5 < np.std(cells) < 1.0
    assert 0.5 < np.sqrt(np.mean(np.square(means))) < 1.0
    assert max(map(abs, cells)) > 3, "tails heavier than normal ones: hence few degrees of freedom"


def test_the_extract_is_what_the_history_has() -> None:
    try:
        rows = committed_runs.extract()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no history: a shallow clone, or no repository")
    assert rows == committed()


def sign_flips(differences: Floats) -> Floats:
    """Return the one-sided p of each cell [cells, passes] by max-t: equal code may exchange a pass's sides.

    All cells of a pass are exchanged together, so that it does not matter how they depend on each other
    (Westfall and Young, Resampling-Based Multiple Testing, 1993). All flips of up to 13 passes, else 4096.
    """
    passes = differences.shape[1]
    if passes <= 13:
        signs = 1.0 - 2 * ((np.arange(2**passes)[:, None] >> np.arange(passes)) & 1)
    else:
        drawn = np.random.default_rng(0).choice([-1.0, 1.0], (4095, passes))
        signs = np.concatenate([np.ones((1, passes)), drawn])
    means = signs @ differences.T / passes
    variances = np.maximum(np.square(differences).mean(axis=1) - np.square(means), 1e-300) / (passes - 1)
    t = means / np.sqrt(variances)
    result: Floats = (t.max(axis=1)[:, None] >= t[0] - 1e-12).mean(axis=0)
    return result


@pytest.mark.parametrize(("machine", "differ"), [("h200", 0), ("cpu", 8)])
def test_sign_flips_agree_with_the_rule_on_measured_comparisons(machine: str, differ: int) -> None:
    """They differ in 7 of 960 cells of busy cores: the flips do not leave disturbed processes out."""
    with (ROOT / "results" / machine / "verdict-power.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    other = slower = 0
    for row in rows:
        logs = [[float(one) for one in cell.split()] for cell in row["pair_log_percent"].split("; ")]
        differences = np.array(logs) / 100
        clear, within, _ = rule.decide(rule.trimmed(differences), float(row["threshold_percent"]) / 100)
        flipped = (sign_flips(differences) <= rule.ERROR_RATE / 2) & ~within
        other += int((flipped != clear.slower).sum())
        slower += int(clear.slower.sum())
    assert slower >= 50
    assert other <= differ
