"""What benchmarks/timer_agreement.py calls explained, what it resumes from, and what it refuses."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_bench.measure.device.cupti_timer import TracedCall
from lightning_bench.measure.device.stream_clock import SampleClock
from lightning_bench.measure.sampling import Sampler
from tests.support.paths import ROOT
from tests.support.patience import PATIENCE_S

FULL_MHZ = 1980.0
EVENT_STEP_NS = 32  # of an H200


def imported(monkeypatch: pytest.MonkeyPatch, name: str) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")  # as where it runs as a script
    return importlib.import_module(name)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("triton")  # of which the kernels are made
    return imported(monkeypatch, "timer_agreement")


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return imported(monkeypatch, "timer_rows")


def sampler(rows: ModuleType, *ms: float, mhz: float = FULL_MHZ, dropped: int = 0) -> Sampler:
    return rows.sampler_of(list(ms), [mhz] * len(ms), dropped)  # type: ignore[no-any-return]


def traced(
    rows: ModuleType, span_ms: float, events_ms: float, activities: int = 1, mhz: float = FULL_MHZ
) -> Any:
    calls = [TracedCall(span_ms, span_ms, activities, events_ms)] * 9
    return rows.Traced.of(calls, [SampleClock(mhz, False)] * 9)


def test_a_ratio_that_agrees_needs_no_explanation(rows: ModuleType) -> None:
    for ms in (1.0099, 0.9901):
        assert rows.nvbench_explanation(sampler(rows, ms), sampler(rows, 1.0)) == ""
        assert rows.cupti_explanation(sampler(rows, ms), traced(rows, 1.0, 1.0), 2.0) == ""


def test_a_slower_clock_explains_a_longer_time_if_the_cycles_agree(rows: ModuleType) -> None:
    ours, peer = sampler(rows, 11.0, mhz=1600.0), sampler(rows, 10.0, mhz=1760.0)
    text = rows.nvbench_explanation(ours, peer)
    assert text == "in cycles the ratio is 1.0000: the SM clock was 1600 MHz by lbench, 1760 MHz by nvbench"
    assert rows.explained(text)


def test_a_clock_that_leaves_the_cycles_apart_explains_nothing(rows: ModuleType) -> None:
    ours, peer = sampler(rows, 11.0, mhz=1700.0), sampler(rows, 10.0, mhz=1760.0)
    text = rows.nvbench_explanation(ours, peer)
    assert text.startswith("not explained: in cycles the ratio is 1.0625: ")
    assert not rows.explained(text)


def test_a_difference_below_the_resolution_of_events_is_none(rows: ModuleType) -> None:
    text = rows.nvbench_explanation(sampler(rows, 0.0104), sampler(rows, 0.0100))
    assert text == "a difference of +0.40 us is within the resolution of events, 0.5 us"
    assert not rows.explained(rows.nvbench_explanation(sampler(rows, 0.0106), sampler(rows, 0.0100)))


def test_without_clocks_no_clock_explains(rows: ModuleType) -> None:
    ours = rows.new_sampler()
    ours.add([11.0], 0.0)
    assert rows.nvbench_explanation(ours, sampler(rows, 10.0)) == "not explained: the SM clock is not known"


def test_medians_that_are_known_too_little_are_not_resolved(rows: ModuleType) -> None:
    ours = sampler(rows, 0.98, 1.0, 1.06, 1.06, 1.07, 1.1)
    peer = sampler(rows, 0.97, 1.0, 1.0, 1.0, 1.0, 1.02)
    assert rows.nvbench_explanation(ours, peer) == (
        "not resolved: the intervals of the medians allow ratios from 0.9608 to 1.1340"
    )


def test_what_events_cost_around_a_kernel_explains_a_short_call(rows: ModuleType) -> None:
    """25 us by CUPTI, 27.45 by events, of which 2.4 are around the kernel."""
    ours, spans = sampler(rows, 0.02745), traced(rows, 0.025, 0.02745)
    text = rows.cupti_explanation(ours, spans, 2.4)
    assert text == (
        "of +2.45 us, events around empty kernels of this size are +2.40 us, and the calls of lbench, "
        "which are not traced, +0.00 us (at 1980 MHz; those that are traced, 1980 MHz); "
        "+0.05 us (+0.20 %) remain"
    )
    assert rows.explained(text)


@pytest.mark.parametrize(
    ("overhead_us", "ending"), [(2.0, ", within the resolution of events, 0.5 us"), (1.3, "")]
)
def test_a_remainder_is_within_the_resolution_or_not_explained(
    rows: ModuleType, overhead_us: float, ending: str
) -> None:
    text = rows.cupti_explanation(sampler(rows, 0.0274), traced(rows, 0.025, 0.0274), overhead_us)
    assert text.endswith(f" %) remain{ending}")
    assert rows.explained(text) == bool(ending)


times = st.floats(0.005, 300.0)


@given(times, times, times, st.floats(-1.0, 10.0))
def test_the_parts_of_a_difference_add_up(
    ours_ms: float, span_ms: float, events_ms: float, cost: float
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        rows = imported(monkeypatch, "timer_rows")
    ours, spans = sampler(rows, ours_ms), traced(rows, span_ms, events_ms)
    row = rows.cupti_columns(ours, spans, cost)
    parts = cost + float(row["untraced_us"]) + float(row["cupti_remainder_us"])
    assert parts == pytest.approx(float(row["cupti_difference_us"]), abs=0.002)
    assert parts == pytest.approx(1e3 * (ours_ms - span_ms), abs=0.002)
    text = row["cupti_explained_by"]
    remainder_us = 1e3 * (events_ms - span_ms) - cost
    small = abs(remainder_us) <= max(rows.RESOLUTION_US, 10 * span_ms)
    assert rows.explained(text) == (small or abs(ours_ms / span_ms - 1) <= 0.01)


def test_a_throttled_call_counts_for_no_timer(rows: ModuleType) -> None:
    slow, fast = TracedCall(2.0, 2.0, 1, 2.1), TracedCall(1.0, 1.0, 1, 1.1)
    found = rows.Traced.of([slow, fast, slow], [SampleClock(900.0, True), None, SampleClock(900.0, True)])
    assert found.calls == [fast]
    assert found.spans.samples == [1.0]
    assert found.spans.dropped == 2
    ours = rows.new_sampler()
    for _ in range(1000):
        ours.add([1.0], 0.0, [SampleClock(900.0, True)])
    assert (ours.samples, ours.dropped) == ([], 1000)


def test_a_timer_that_kept_nothing_has_blank_columns_and_is_named(rows: ModuleType) -> None:
    nothing, ours = sampler(rows, dropped=7), sampler(rows, *[2.0] * 9)
    blank, full = rows.timer_columns("nvbench", nothing), rows.timer_columns("nvbench", ours)
    assert blank.keys() == full.keys()
    assert (blank["nvbench_median_ms"], blank["nvbench_mhz"], blank["nvbench_dropped"]) == ("", "", 7)
    assert (full["nvbench_median_ms"], full["nvbench_median_cycles"]) == ("2.000000", "3960000")
    for row, name in (
        (rows.nvbench_columns(ours, nothing), "nvbench"),
        (rows.nvbench_columns(nothing, ours), "lbench"),
        (rows.cupti_columns(nothing, traced(rows, 1.0, 1.0), 2.4), "lbench"),
        (rows.cupti_columns(ours, rows.Traced(nothing, []), 2.4), "CUPTI"),
    ):
        *values, text = row.values()
        assert set(values) == {""}
        assert text == f"not explained: {name} kept no sample: all 7 were throttled"
    assert rows.nvbench_columns(ours, nothing).keys() == rows.nvbench_columns(ours, ours).keys()
    assert rows.cupti_columns(nothing, traced(rows, 1.0, 1.0), 2.4).keys() == (
        rows.cupti_columns(ours, traced(rows, 1.0, 1.0), 2.4).keys()
    )


def test_the_overhead_of_a_kernel_is_events_less_cupti_on_the_same_calls(rows: ModuleType) -> None:
    empty = rows.EmptyKernel(pair_us=1.3, lbench_us=3.6, nvbench_us=3.5, traced_us=3.9, cupti_us=1.4)
    assert empty.columns()["empty_kernel_events_us"] == "3.900"
    assert rows.launch_columns([], empty.overhead_us) == {"launches": "", "kernel_overhead_us": "+2.500"}


def test_launches_are_named_by_those_with_which_a_call_begins_and_ends(rows: ModuleType) -> None:
    size = rows.LaunchSize((4, 32, 1), (128, 1, 1), 49152)
    text = "4x32x1 programs of 128x1x1 threads and 49152 bytes"
    one, two = TracedCall(1.0, 1.0, 1, 1.1, size, size), TracedCall(1.0, 1.0, 3, 1.1, None, size)
    assert rows.launch_columns([one, two], 2.0) == {"launches": text, "kernel_overhead_us": "+2.000"}
    assert rows.launches_of(two) == f"fill or copy … {text}"


class NvbenchState:
    """nvbench's side: a warm-up, `count` samples and one that it discards; notes what happens."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.events, self.count = folder, [], 0  # type: ignore[var-annotated]

    def set_stream(self, stream: Any) -> None:
        pass

    def set_min_samples(self, count: int) -> None:
        self.count = count

    def get_cold_warmup_runs(self) -> int:
        return 1

    def start(self) -> None:
        self.events.append("start")

    def stop(self) -> None:
        self.events.append("stop")

    def exec(self, launch: Any, *, batched: bool, timer: bool) -> None:
        assert (batched, timer) == (False, True)
        for _ in range(1 + self.count + 1):
            launch(None, self)
        for ending, value in (("-bin", 2e-3), ("-freqs-bin", 1.5e9)):
            folder = self.folder / f"nvbench.json{ending}"
            folder.mkdir()
            np.full(self.count, value, dtype="<f4").tofile(folder / "0.bin")


def test_nvbench_and_the_other_timer_take_turns_which_of_them_begins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cold, state = imported(monkeypatch, "nvbench_cold"), NvbenchState(tmp_path)
    events = state.events
    found = cold.Nvbench(str(tmp_path)).sampled(
        state, lambda: events.append("call"), lambda: events.append("ours"), stream=None, count=2
    )
    nvbench = ["start", "call", "stop"]
    assert events == [*nvbench, "ours", *nvbench, *nvbench, "ours", "ours", *nvbench]
    assert found.ms == pytest.approx([2.0, 2.0])
    assert found.mhz == pytest.approx([1500.0, 1500.0])
    assert found.dropped == 1


class TracedClocks:
    """A timer of which all, none or some samples of each turn are throttled."""

    def __init__(self, throttled: Sequence[bool]) -> None:
        self.calls: list[TracedCall] = []
        self._throttled, self._last = throttled, 0

    def sample(self, fn: Any, count: int, watch: Any) -> None:
        self.calls += [TracedCall(1.0, 1.0, 1, 1.1)] * count
        self._last = count

    def clocks(self) -> list[SampleClock]:
        return [SampleClock(1000.0, self._throttled[i % len(self._throttled)]) for i in range(self._last)]


@pytest.mark.parametrize(
    ("throttled", "kept", "dropped"),
    [([False], 10, 0), ([True, False, False, False, False], 12, 3), ([True], 0, 10)],
)
def test_traced_calls_are_taken_until_enough_are_kept_or_as_many_dropped(
    script: ModuleType, throttled: list[bool], kept: int, dropped: int
) -> None:
    found = script.take_traced(TracedClocks(throttled), lambda: None, 10)
    assert (len(found.spans.samples), found.spans.dropped) == (kept, dropped)


@given(st.floats(1e-3, 1e4))
def test_long_calls_have_fewer_samples(call_ms: float) -> None:
    pytest.importorskip("triton")
    with pytest.MonkeyPatch.context() as monkeypatch:
        script = imported(monkeypatch, "timer_agreement")
    count = script.sample_count(call_ms)
    assert script.FEWEST <= count <= script.MOST
    assert count == script.FEWEST or count * call_ms <= script.BUDGET_MS


def test_events_of_an_h200_are_multiples_of_a_step_below_the_resolution_that_counts(rows: ModuleType) -> None:
    """NVIDIA documents about 0.5 us; longer times have too few digits in the sidecars to tell."""
    short = [
        1e6 * ms
        for path in (ROOT / "results" / "h200").rglob("*.samples.jsonl")
        for line in path.read_text().splitlines()
        for ms in json.loads(line).get("samples_ms", ())
        if ms < 0.1
    ]
    assert len(short) > 1000
    assert all(abs(ns / EVENT_STEP_NS - round(ns / EVENT_STEP_NS)) < 0.01 for ns in short)
    assert EVENT_STEP_NS < 1e3 * rows.RESOLUTION_US


def test_rows_are_read_back_by_cell_and_others_are_not(script: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    assert list(script.recorded(out)) == []
    script.write_rows(
        out,
        [
            {"provider": name, "direction": "fwd", "seq_len": n}
            for name, n in (("flash2", 512), ("flash2", 513))
        ],
    )
    assert [key for key, _ in script.recorded(out)] == [("flash2", "fwd", "512")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv"]


def test_cells_are_three_providers_two_directions_and_three_lengths(script: ModuleType) -> None:
    assert len({cell.key for cell in script.CELLS}) == 18


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="would measure")
def test_without_its_timers_it_measures_nothing_and_names_all_that_is_missing(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "timer_agreement.py"), str(tmp_path / "a.csv")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert ran.returncode == 2
    for missing in ("a CUDA device", "cuda-bench", "lightning-bench[cupti]"):
        assert missing in ran.stdout
    assert not list(tmp_path.iterdir())
