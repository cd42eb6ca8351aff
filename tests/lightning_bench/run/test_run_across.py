"""Several processes per case: one row of all, its interval, its samples, and failures in the second."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_bench.case import Case, Shape
from lightning_bench.measure.job import CaseSamples, Figures, Outcome
from lightning_bench.record import AUTOTUNED, TUNED_BEFORE, Record, read_records
from lightning_bench.run.across import BETWEEN_LIMIT_PERCENT, across, half_width
from tests.support.workspace import Workspace

pytestmark = pytest.mark.usefixtures("forked_workers")

CASE = Case("mine", "fwd", Shape(1, 2, 64, 16, 16, "fp32", "cpu"))


def outcome(median: float, *, within: float = 1e-4, config: str = "", status: str = "ok") -> Outcome:
    figures = Figures(
        provider_config=config,
        median_ms=median,
        ci_low_ms=median * math.exp(-1.959964 * within),
        ci_high_ms=median * math.exp(1.959964 * within),
        samples=20,
        processes=1,
        error_o=median * 1e-6,
    )
    return Outcome(CASE, status, "", figures, CaseSamples([median], [1], [median], []))  # type: ignore[arg-type]


@given(st.lists(st.floats(0.9, 1.1), min_size=2, max_size=9))
def test_the_figures_are_those_of_the_process_in_the_middle(medians: list[float]) -> None:
    got = across([outcome(median) for median in medians])
    assert got.figures.median_ms == statistics.median_low(medians)
    assert got.samples is not None
    assert got.samples.samples_ms == [got.figures.median_ms]
    assert (got.figures.processes, got.figures.samples) == (len(medians), 20 * len(medians))
    between = 100.0 * statistics.stdev(map(math.log, medians))
    assert got.figures.between_percent == pytest.approx(between)
    assert got.figures.error_o == max(medians) * 1e-6
    assert (got.status == "unstable") == (between > BETWEEN_LIMIT_PERCENT)
    assert got.figures.ci_low_ms is not None
    assert got.figures.ci_high_ms is not None
    assert got.figures.ci_low_ms < got.figures.median_ms < got.figures.ci_high_ms


def test_the_last_line_of_samples_is_that_of_the_figures() -> None:
    got = across([outcome(median).sealed for median in (1.01, 1.0, 1.02)])
    lines = [json.loads(f"{{{line}}}") for line in got.sample_lines]
    assert [(line["samples_ms"], line["process"]) for line in lines] == [([1.0], 1), ([1.02], 2), ([1.01], 0)]
    assert got.samples is None
    (alone,) = across([outcome(1.0).sealed]).sample_lines
    assert json.loads(f"{{{alone}}}") == {"samples_ms": [1.0], "turns": [1], "call_ms": [1.0], "clocks": []}


def test_throttled_samples_are_those_of_all_processes() -> None:
    def throttled(count: int | None) -> Outcome:
        one = outcome(1.0)
        return replace(one, figures=replace(one.figures, throttled_samples=count))

    assert across([throttled(2), throttled(None), throttled(1)]).figures.throttled_samples == 3
    assert across([throttled(None), throttled(None)]).figures.throttled_samples is None


def test_one_process_stays_as_it_is() -> None:
    only = outcome(1.0)
    assert across([only]) is only


def test_processes_that_differ_are_unstable_and_named() -> None:
    got = across([outcome(1.0), outcome(2.0), outcome(1.5)])
    assert got.status == "unstable"
    assert got.reason == "its processes differ: medians of 1, 2, 1.5 ms"
    disturbed = replace(outcome(1.0, status="unstable"), reason="others were busy")
    got = across([outcome(1.01), disturbed, outcome(1.02)])
    assert (got.status, got.reason, got.figures.median_ms) == ("unstable", "others were busy", 1.01)


def test_a_kernel_that_tunes_itself_gives_its_best_process() -> None:
    configs = [f"{AUTOTUNED}k(B={b} num_warps=4 num_stages=2)" for b in (64, 32, 64)]
    got = across([outcome(m, config=c) for m, c in zip((1.9, 1.2, 1.3), configs, strict=True)])
    assert (got.status, got.figures.median_ms) == ("ok", 1.2)
    assert got.figures.provider_config == configs[1]
    assert got.reason == "the fastest of 3 processes, each of which tuned anew"
    configs[1:] = [f"path=own {TUNED_BEFORE}k(B=64 num_warps=4 num_stages=2)"] * 2
    got = across([outcome(m, config=c) for m, c in zip((1.9, 1.2, 1.3), configs, strict=True)])
    assert (got.status, got.figures.median_ms) == ("ok", 1.2)
    assert got.reason == "the fastest of 3 processes, 1 of which tuned anew"


def test_a_kernel_that_tuned_itself_before_is_like_any_other() -> None:
    config = f"{TUNED_BEFORE}k(B=64 num_warps=4 num_stages=2)"
    got = across([outcome(m, config=config) for m in (1.02, 1.0, 1.01)])
    assert (got.status, got.figures.median_ms, got.reason) == ("ok", 1.01, "")
    assert across([outcome(m, config=config) for m in (1.9, 1.0, 1.01)]).status == "unstable"


@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_figure_of_other_processes_is_in_the_interval_as_often_as_stated(count: int) -> None:
    random = np.random.default_rng(count)
    logs = 0.01 * random.standard_normal((4000, 2, count))
    inside = 0
    for ours, theirs in logs:
        half = half_width(statistics.stdev(ours), [1e-6] * count)
        inside += abs(ours.mean() - theirs.mean()) <= half
    assert 0.94 <= inside / 4000 <= 0.96


def test_agreement_by_luck_does_not_narrow_the_interval_below_what_each_process_knows() -> None:
    assert half_width(0.0, [0.01] * 3) == half_width(0.01, [0.01] * 3) > half_width(0.0, [0.001] * 3) > 0


@pytest.fixture(scope="module")
def rows(workspace: Workspace) -> dict[str, Record]:
    suite = workspace.suite(["Good", "FailsInAnotherProcess"], limits={"processes": 2})
    workspace.sweep(suite, "speed")
    return {row.provider: row for row in read_records(workspace.out)}


@pytest.mark.slow
def test_a_row_of_two_processes_has_the_samples_of_both(
    rows: dict[str, Record], workspace: Workspace
) -> None:
    good = rows["good"]
    assert good.worked, good.reason
    assert good.processes == 2
    assert good.between_percent is not None
    lines = workspace.out.with_suffix(".samples.jsonl").read_text().splitlines()
    entries = [entry for entry in map(json.loads, lines) if entry["case_id"].startswith("good/")]
    assert sorted(entry["process"] for entry in entries) == [0, 1]
    assert sum(len(entry["samples_ms"]) for entry in entries) == good.samples
    assert statistics.median(entries[-1]["samples_ms"]) == pytest.approx(good.median_ms, rel=1e-4)


@pytest.mark.slow
def test_what_fails_in_the_second_process_has_no_time(rows: dict[str, Record]) -> None:
    row = rows["fails-in-another-process"]
    assert (row.status, row.median_ms) == ("crashed", None)
    assert row.reason == "in process 2 of 2: RuntimeError: one process is enough"


@pytest.mark.slow
def test_more_processes_measure_a_row_again_and_fewer_do_not(
    rows: dict[str, Record], workspace: Workspace
) -> None:
    assert rows["good"].processes == 2
    fewer = workspace.sweep(workspace.suite(["Good"], limits={"processes": 1}), "speed")
    assert [record.time_utc for record in fewer.records] == [rows["good"].time_utc]
    more = workspace.sweep(workspace.suite(["Good"], limits={"processes": 3}), "speed")
    assert [record.processes for record in more.records] == [3]
